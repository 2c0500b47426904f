"""Finds and loads a stored network: that of a user's run, or one that ships with this package."""

from etils import epath

from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.files import read_json
from mlcm_jax.models import network as networks
from mlcm_jax.models import stored

SHIPPED = epath.resource_path("mlcm_jax") / "inference" / "shipped"


def load(
    path: epath.PathLike | None, stage: str | None, *, shipped: epath.Path | None = None
) -> tuple[networks.Network, stored.Card, epath.Path]:
    """Loads a network.

    Args:
        path: see `Predictor`.
        stage: see `Predictor`.
        shipped: the folder of the network that `path=None` means; None: that of the landmarks.

    Returns:
        The network, its description, and their folder.
    """
    if path is not None:
        folder = model_folder(epath.Path(path), stage)
        return *stored.load(folder), folder
    if stage is not None:
        raise InputError(f"stage={stage!r} names a stage of a run, so the run's work directory is needed too.")
    shipped = shipped or SHIPPED
    try:
        return *stored.load(shipped), shipped
    except InputError as error:
        raise InputError(
            f"The network that ships with mlcm_jax, in {shipped}, is incomplete or damaged; install mlcm_jax again."
        ) from error


def model_folder(workdir: epath.Path, stage: str | None) -> epath.Path:
    """Returns the folder of a finished stage, or the given one if it holds a network; raises InputError otherwise."""
    if stage is None and (workdir / stored.CARD).exists():
        return workdir
    if not (workdir / "config.json").exists():
        raise stored.no_run(workdir)
    named = read_json(workdir / "config.json")
    asked = named.get("stages") if isinstance(named, dict) else None
    if not asked or not isinstance(asked, list) or not all(isinstance(name, str) for name in asked):
        raise InputError(f"{workdir / 'config.json'} names no stages; restore it, or use another work directory.")
    finished = [path.parent.name for path in workdir.glob(f"*/{stored.CARD}")]
    stage = stage or asked[-1]
    if stage in finished:
        return workdir / stage
    if stage not in asked:
        raise InputError(f"{workdir} has no stage {stage!r}; {did_you_mean(stage, dict.fromkeys([*asked, *finished]))}")
    raise InputError(f"Stage {stage} of {workdir} is not finished; run the training command again to finish it.")
