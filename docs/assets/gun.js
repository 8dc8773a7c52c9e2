// The gun of the tutorial's first chapter, to play with: two settings, the shot, and what each setting is to blame for.
const gun = document.getElementById("gun");
if (gun) {
  const g = 9.81;
  const target = 900;
  const rate = 2e-5;
  const radians = Math.PI / 180;
  gun.innerHTML = `
    <svg viewBox="0 0 480 150" role="img" aria-label="The flight of the shell">
      <path class="flight"></path><path d="M0 130H480" class="ground"></path><path class="target"></path>
    </svg>
    <label>powder <input type="range" name="c" min="2" max="9" step="any"><output></output></label>
    <label>elevation <input type="range" name="d" min="5" max="80" step="any"><output></output></label>
    <p class="told" aria-live="polite"></p>
    <button type="button" class="md-button correct">Correct</button>
    <button type="button" class="md-button again">Again</button>`;
  const [c, d] = gun.querySelectorAll("input");
  const [bags, degrees] = gun.querySelectorAll("output");
  const place = (x) => 20 + x * 0.42;

  const shot = () => {
    const [charge, dial] = [Number(c.value), Number(d.value)];
    const v = 40 * Math.sqrt(charge);
    const theta = dial * radians;
    const x = (v * v * Math.sin(2 * theta)) / g;
    const error = x - target; // at the output
    const errorV = (error * 2 * v * Math.sin(2 * theta)) / g; // one layer down
    const errorTheta = (error * 2 * v * v * Math.cos(2 * theta)) / g;
    return { charge, dial, v, theta, x, error, byBag: (errorV * 20) / Math.sqrt(charge), byDegree: errorTheta * radians };
  };

  const show = () => {
    const s = shot();
    const points = Array.from({ length: 61 }, (_, k) => {
      const along = (s.x * k) / 60;
      const high = along * Math.tan(s.theta) - (g * along * along) / (2 * (s.v * Math.cos(s.theta)) ** 2);
      return `${place(along).toFixed(1)} ${(130 - high * 0.42).toFixed(1)}`;
    });
    gun.querySelector(".flight").setAttribute("d", `M${points.join("L")}`);
    gun.querySelector(".target").setAttribute("d", `M${place(target)} 128l-6 12h12z`);
    bags.textContent = `${s.charge.toFixed(2)} bags`;
    degrees.textContent = `${s.dial.toFixed(1)}°`;
    const signed = (n) => `${n < 0 ? "−" : "+"}${Math.abs(n).toLocaleString("en", { maximumFractionDigits: 0 })}`;
    gun.querySelector(".told").textContent =
      `The shell is ${signed(s.error)} m off. To blame: powder ${signed(s.byBag)} a bag, elevation ${signed(s.byDegree)} a degree.`;
  };

  const correct = () => {
    const s = shot();
    c.value = s.charge - rate * s.byBag;
    d.value = s.dial - rate * s.byDegree;
    show();
  };

  const again = () => {
    c.value = 5;
    d.value = 30;
    show();
  };

  gun.addEventListener("input", show);
  gun.querySelector(".correct").addEventListener("click", correct);
  gun.querySelector(".again").addEventListener("click", again);
  again();
}
