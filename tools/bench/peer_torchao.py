"""PyTorch int8: torchao's export quantization for x86, lowered to oneDNN's kernels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fxquant.runtime.host import host_features

if TYPE_CHECKING:
    from fxquant.tools.bench.networks import Network
    from fxquant.tools.bench.peers import Arrays, Job, Runner

_FILE = "model.pt2"


def prepare(job: Job, _variant: str) -> None:
    """Quantize with the default scheme, 7-bit weights where byte products saturate (no VNNI), and export."""
    import torch
    from torchao.quantization.pt2e import quantize_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    saturates = not {"avx512_vnni", "avx_vnni"} & host_features()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=saturates))
    sample = job.calibration[0]
    with torch.no_grad():
        model = quantize_pt2e.prepare_pt2e(torch.export.export(job.model, sample, strict=True).module(), quantizer)
        for inputs in job.calibration:
            model(*inputs)
        torch.export.save(torch.export.export(quantize_pt2e.convert_pt2e(model), sample), job.folder / _FILE)


def load(folder: Path, _variant: str, network: Network, threads: int) -> Runner:
    """Read it, and put oneDNN's operators in place."""
    import torch
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

    torch.set_num_threads(threads)
    with torch.no_grad():
        model = torch.export.load(folder / _FILE).module()
        lowered = lower_pt2e_quantized_to_x86(model, network.evaluation(1)[0])

    def run(arrays: Arrays) -> Arrays:
        with torch.no_grad():
            result = lowered(*(torch.from_numpy(array) for array in arrays))
        return [t.numpy() for t in (result if isinstance(result, (tuple, list)) else (result,))]

    return run
