"""Reports as one page of HTML that needs nothing else: no script, no font, no network."""

import math
from collections.abc import Iterable

from verify.report.escape import html as escape
from verify.report.report import Heat, Measured, Report

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2024; background: #fff; max-width: 1080px;
       margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 1.2rem 0 .4rem }
h3 { font-size: .9rem; margin: 0 0 .3rem; font-weight: 600 }
code, .mono { font: 13px/1.4 ui-monospace, monospace }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: .7rem; font-size: .85rem; font-weight: 600 }
.pass { background: #d8f0dc; color: #12521f } .fail { background: #fbd9d3; color: #8c1d0b }
.inconclusive { background: #fdecc4; color: #6b4a00 }
table { border-collapse: collapse } td, th { padding: .22rem .7rem .22rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #c8ced4 } .list { width: 100% } .list td:first-child { width: 7rem }
.list td { border-bottom: 1px solid #eceff2 } td.num, th.num { text-align: right; white-space: nowrap }
details { border: 1px solid #d8dde2; border-radius: .5rem; margin: .6rem 0; padding: .45rem .9rem }
summary { cursor: pointer; overflow-wrap: anywhere } summary .badge { margin-right: .5rem }
.error { border-left: 4px solid #c8402a; padding: .2rem .7rem; margin: .35rem 0; overflow-wrap: anywhere }
.note { border-left: 4px solid #b9c1c9; padding: .2rem .7rem; margin: .35rem 0; color: #4c555e;
        overflow-wrap: anywhere }
.row { display: flex; flex-wrap: wrap; gap: 1.6rem } .row > div { min-width: 0; max-width: 100% }
.dim { color: #5d6670; font-size: .87rem } .wide { overflow-x: auto }
.grid td { width: 3.6rem; height: 1.15rem; padding: 0; border: 1px solid #fff; font-size: .72rem; text-align: center }
.grid th { border: 0; font-weight: 400; font-size: .78rem; padding: 0 .6rem 0 0; white-space: nowrap }
.grid th.leaf { width: 3.6rem; padding: 0; text-align: center; font: 12px ui-monospace, monospace }
.grid td.over { outline: 2px solid #8c1d0b; outline-offset: -2px; font-weight: 700 }
svg text { font: 11px system-ui, sans-serif; fill: #444c54 }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"  # nothing from elsewhere
LOW, HIGH = -17.0, 0.0  # log10 of the errors that have a colour of their own
STOPS = (247, 249, 251), (198, 219, 239), (158, 154, 200), (221, 93, 93), (127, 13, 13)
LINES = "#2a5d9f", "#c8402a", "#3c8a4e", "#8a5aa8", "#b07a12", "#2c8c96", "#7a4a3a", "#5d6670"


def html(reports: list[Report], title: str) -> str:
    """One page: what was audited, what was found, how large the errors are and where, what was tried."""
    counts = {v: sum(r.verdict == v for r in reports) for v in ("fail", "inconclusive", "pass")}
    badges = " ".join(f'<span class="badge {v}">{n} {v}</span>' for v, n in counts.items() if n)
    seconds, checks = sum(r.seconds for r in reports), sum(r.checks for r in reports)
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    listed = sorted(reports, key=lambda r: order[r.verdict])
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{badges}</p>",
        f'<p class="dim">{checks} comparisons, {seconds:.1f} s of audits.</p>',
        _overview(listed) if len(listed) > 1 else "",
        *(_report(r, i, len(listed)) for i, r in enumerate(listed)),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _overview(reports: list[Report]) -> str:
    rows = [
        f'<tr><td><span class="badge {r.verdict}">{r.verdict}</span></td>'
        f'<td class="mono"><a href="#r{i}">{escape(r.subject)}</a></td>'
        f'<td class="num">{len(r.errors)}</td><td class="num">{_figure(_worst(r))}</td>'
        f'<td class="num">{r.seconds:.1f} s</td></tr>'
        for i, r in enumerate(reports)
    ]
    head = '<tr><th></th><th>subject</th><th class="num">errors</th><th class="num">worst in float64</th><th></th></tr>'
    return f'<table class="list">{head}{"".join(rows)}</table>'


def _worst(report: Report) -> float | None:
    found = [m.error for m in report.measured if m.dtype == "float64"]
    return max(found, default=None, key=lambda e: (math.isnan(e), e))


def _figure(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}" if math.isfinite(value) else "not finite"


def _report(report: Report, number: int, several: int) -> str:
    shown = " open" if several == 1 or report.verdict != "pass" else ""
    said = "".join(
        f'<div class="{f.severity}"><b>{escape(f.law)}</b> <code>{escape(f.where)}</code> '
        f"{'· <b>' + escape(f.diagnosis) + '</b>' if f.diagnosis else ''}<br>{escape(f.message)}</div>"
        for f in sorted(report.findings, key=lambda f: f.severity)
    )
    place = f' <span class="dim">{escape(report.source[0])}:{report.source[1]}</span>' if report.source else ""
    return (
        f'<details id="r{number}"{shown}><summary><span class="badge {report.verdict}">{report.verdict}</span>'
        f'<span class="mono">{escape(report.subject)}</span>{place}</summary>'
        f'<p class="dim">Compared with: {escape(report.oracle)} ({escape(report.strength)}).</p>{said}'
        f"{_charts(report)}{_inputs(report.measured)}{_canaries(report)}{_tried(report)}</details>"
    )


def _charts(report: Report) -> str:
    maps = [_heat(h) for h in report.heat[:12]]
    if not report.measured and not maps:
        return ""
    left = f"<h2>Error against dtype</h2>{_dtypes(report.measured)}" if report.measured else ""
    more = f'<p class="dim">and {len(report.heat) - 12} leaves more</p>' if len(report.heat) > 12 else ""
    right = f'<h2>Error of each element, by leaf</h2>{_legend()}<div class="row">{"".join(maps)}</div>{more}'
    return f'<div class="row"><div>{left}</div><div>{right}</div></div>'


def colour(error: float) -> str:
    """A colour for a relative error: pale for rounding, dark for wrong, black for NaN."""
    if math.isnan(error) or error == math.inf:
        return "#000"
    level = 0.0 if error <= 0 else (min(max(math.log10(error), LOW), HIGH) - LOW) / (HIGH - LOW)
    at = level * (len(STOPS) - 1)
    k = min(int(at), len(STOPS) - 2)
    mixed = (round(a + (b - a) * (at - k)) for a, b in zip(STOPS[k], STOPS[k + 1], strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def _legend() -> str:
    cells = "".join(
        f'<rect x="{i * 18}" width="18" height="12" fill="{colour(10.0**e)}"/>' for i, e in enumerate(range(-17, 1))
    )
    marks = "".join(
        f'<text x="{x}" y="26" text-anchor="{anchor}">{words}</text>'
        for x, anchor, words in ((0, "start", "1e-17"), (162, "middle", "1e-8"), (324, "end", "1"))
    )
    return f'<svg width="330" height="32" role="img" aria-label="colours">{cells}{marks}</svg>'


def _heat(heat: Heat) -> str:
    size = max(6, min(22, 240 // max(len(heat.rows[0]), 1)))
    cells = "".join(
        f'<rect x="{j * size}" y="{i * size}" width="{size - 1}" height="{size - 1}" fill="{colour(v)}">'
        f"<title>{v:.1e}</title></rect>"
        for i, row in enumerate(heat.rows)
        for j, v in enumerate(row)
    )
    w, h = size * len(heat.rows[0]), size * len(heat.rows)
    shape = "×".join(map(str, heat.shape)) or "scalar"
    return (
        f'<div><h3 class="mono">{escape(heat.leaf)} <span class="dim">{shape}</span></h3>'
        f'<svg width="{w}" height="{h}" role="img" aria-label="errors of {escape(heat.leaf)}">{cells}</svg>'
        f'<div class="dim">{escape(heat.input)}</div></div>'
    )


def _dtypes(measured: tuple[Measured, ...]) -> str:
    """For each dtype and leaf the worst error at inputs like the example, and what was allowed."""
    dtypes = list(dict.fromkeys(m.dtype for m in measured))
    leaves = list(dict.fromkeys(m.leaf for m in measured))[: len(LINES)]
    wide, high, top = 90, 200, 14
    y = lambda e: top + high * (min(max(math.log10(e), -18), 1) - 1) / -19 if e > 0 else top + high  # noqa: E731
    x = lambda i, k: 50 + wide * (i + 0.5) + 7 * (k - (len(leaves) - 1) / 2)  # noqa: E731
    parts = [
        f'<line x1="44" x2="{50 + wide * len(dtypes)}" y1="{y(10.0**e)}" y2="{y(10.0**e)}" stroke="#e6eaee"/>'
        f'<text x="40" y="{y(10.0**e) + 4}" text-anchor="end">1e{e}</text>'
        for e in range(-16, 1, 4)
    ]
    parts += [
        f'<text x="{50 + wide * (i + 0.5)}" y="{top + high + 18}" text-anchor="middle">{escape(_short(d))}</text>'
        for i, d in enumerate(dtypes)
    ]
    for k, leaf in enumerate(leaves):
        for i, dtype in enumerate(dtypes):
            rows = [m for m in measured if m.leaf == leaf and m.dtype == dtype and m.ordinary]
            if not rows:
                continue
            worst = max(rows, key=lambda m: (math.isnan(m.error), m.error))
            error = worst.error if math.isfinite(worst.error) else 10.0
            if 0 < worst.allowed < math.inf:
                a = y(worst.allowed)
                parts.append(f'<line x1="{x(i, k) - 4}" x2="{x(i, k) + 4}" y1="{a}" y2="{a}" stroke="#5d6670"/>')
            parts.append(
                f'<circle cx="{x(i, k)}" cy="{y(error)}" r="3.5" fill="{LINES[k]}">'
                f"<title>{escape(leaf)}, {escape(dtype)}: {worst.error:.1e}, allowed {worst.allowed:.1e}</title>"
                "</circle>"
            )
    keys = "".join(
        f'<span style="color:{LINES[k]}">●</span> <code>{escape(leaf)}</code> ' for k, leaf in enumerate(leaves)
    )
    return (
        f'<svg width="{60 + wide * len(dtypes)}" height="{top + high + 26}" role="img" aria-label="error by dtype">'
        f'{"".join(parts)}</svg><div class="dim">{keys}<br>at inputs like the example; a dash is what is allowed</div>'
    )


def _short(dtype: str) -> str:
    return dtype if len(dtype) < 14 else "as given"


def _inputs(measured: tuple[Measured, ...]) -> str:
    """Coverage: each input that was tried, with the error of each leaf there."""
    exact = [m for m in measured if m.dtype == "float64"]
    leaves = list(dict.fromkeys(m.leaf for m in exact))[:12]
    rows: dict[tuple[str, str], dict[str, Measured]] = {}
    for m in exact:
        rows.setdefault((m.input, m.shapes), {})[m.leaf] = m
    if not rows:
        return ""
    head = "".join(f'<th class="leaf">{escape(leaf)}</th>' for leaf in leaves)
    first = next(iter(rows))[1]
    body = [
        f'<tr><th>{escape(name)} <span class="dim">{escape(shapes) if shapes != first else ""}</span></th>'
        + "".join(_cell(found.get(leaf)) for leaf in leaves)
        + "</tr>"
        for (name, shapes), found in rows.items()
    ]
    columns = 3 if len(leaves) < 3 else 2 if len(leaves) < 5 else 1
    long = -(-len(body) // columns)
    tables = "".join(
        f'<div class="wide"><table class="grid"><tr><th></th>{head}</tr>{"".join(body[i : i + long])}</table></div>'
        for i in range(0, len(body), long)
    )
    return (
        f"<h2>What was tried: {len(rows)} inputs in float64</h2>"
        f'<p class="dim">Of shapes {escape(first)} where no others are named. Relative errors; outlined is more than '
        f'rounding alone allows, which ill conditioning may explain.</p><div class="row">{tables}</div>'
    )


def _cell(m: Measured | None) -> str:
    if m is None:
        return "<td></td>"
    over = ' class="over"' if not m.error <= m.allowed else ""
    dark = ";color:#fff" if not m.error < 1e-4 else ""
    return f'<td{over} style="background:{colour(m.error)}{dark}">{_figure(m.error)}</td>'


def _canaries(report: Report) -> str:
    if not report.canaries:
        return ""
    laws = list(dict.fromkeys(c.law for c in report.canaries))
    rows = []
    for law in laws:
        mine = [c for c in report.canaries if c.law == law]
        counts = {fate: sum(c.fate == fate for c in mine) for fate in ("killed", "survived", "equivalent")}
        cells = "".join(f'<td class="num">{n or ""}</td>' for n in counts.values())
        rows.append(f"<tr><td>{escape(law)}</td>{cells}</tr>")
    names = "".join(f'<th class="num">{name}</th>' for name in ("rejected", "not noticed", "no change"))
    survived = _names(f"{c.name} ({c.law}) {c.where}" for c in report.canaries if c.fate == "survived")
    warn = f'<div class="error">Not noticed: {survived}</div>' if survived else ""
    table = f"<table><tr><th>law</th>{names}</tr>{''.join(rows)}</table>"
    return f"<h2>Wrong versions of this backward, tried on the same checks</h2>{table}{warn}"


def _tried(report: Report) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{_names([what] if isinstance(what, str) else what)}</td></tr>"
        for name, what in report.tried.items()
        if name != "inputs"
    )
    return f"<h2>Coverage</h2><table>{rows}</table>" if rows else ""


def _names(what: Iterable[object]) -> str:
    return escape(", ".join(map(str, what)))
