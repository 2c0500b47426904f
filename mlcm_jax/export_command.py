"""The command `mlcm export`; `cli` dispatches to it."""

from collections.abc import Sequence

from mlcm_jax.flags import Command, Flags, UsageError

_FLAGS = {
    "model": ("", "The work directory of a run; default: the network that ships with this package."),
    "stage": ("", "The stage to export; default: the run's last stage."),
    "network": ("", "Which shipped network, if no --model is given: landmarks (default) or detector."),
    "format": (None, "tflite, onnx or stablehlo."),
    "quantize": ("", "Smaller files: fp16 stores weights in 16 bits, int8 also computes in 8; default: float32."),
    "force": (False, "Write a quantised file although it differs too much from the network."),
    "overwrite": (False, "Replace what an earlier export wrote to --out."),
    "out": (None, "Folder for the file, model.json, report.json and vectors/."),
}


def export(_: Sequence[str], given: Flags) -> None:
    """Writes a network as TFLite, ONNX or StableHLO, for phones, boards and browsers; needs the extra `export`.

    The file takes a crop and returns the landmarks, or a detector's maps. model.json says how an image becomes the
    crop, vectors/ has test cases, and report.json tells how much the file differs from the network.
    """
    from mlcm_jax.export import export as exports

    model, stage = given.model or None, given.stage or None
    if (stage and not model) or (given.network and model):
        raise UsageError("--stage names a stage of --model; --network names a shipped network and excludes --model.")
    what = {name: given.require(name) for name in ("format", "out")} | {"network": given.network or "landmarks"}
    what |= {name: getattr(given, name) for name in ("quantize", "force", "overwrite")}
    exports.export(model, stage=stage, **what)


COMMAND = Command(export, _FLAGS, "--format=tflite|onnx|stablehlo --out=DIR [--quantize=int8] [--model=DIR]")
