"""A pipeline run, kept for looking at: the graph after every pass."""

from __future__ import annotations

import copy

from torch import fx

from fxquant.passmanager import Pass


class Recorder:
    """Give it as `observe` to `quantize`, `prepare`, `convert` or a pipeline, then to `fxquant.view`.

    Graphs are copied, tensors are shared: a recording takes little more memory than the model. `first`, the graph that
    the run starts from, is what later stages are compared with.
    """

    def __init__(self, first: fx.GraphModule | None = None, label: str = "model") -> None:
        self.label = label
        self.stages: list[tuple[str, fx.GraphModule]] = []
        if first is not None:
            self.stages.append(("trace", snapshot(first)))

    def __call__(self, step: Pass, module: fx.GraphModule) -> None:
        """Keep the graph after `step`."""
        self.stages.append((step.name, snapshot(module)))

    @property
    def last(self) -> fx.GraphModule:
        """The graph after the last pass."""
        return self.stages[-1][1]


def snapshot(module: fx.GraphModule) -> fx.GraphModule:
    """A graph of its own over the same tensors and observers."""
    found = fx.GraphModule(module, copy.deepcopy(module.graph))
    found.meta = dict(module.meta)
    return found
