"""The protocol of a layer, for tests that write one without jbp: no parameters, nothing to move on."""


class Bare:
    def init(self, key, x):
        return ()

    def gradient(self, kept, delta):
        return ()

    def pull(self, params, kept, dy):
        return self.backward(params, kept, dy)

    def backward(self, params, kept, dy):
        raise NotImplementedError

    def advance(self, params, kept):
        return params

    def evaluation(self):
        return self
