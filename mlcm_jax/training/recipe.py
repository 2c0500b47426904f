"""The parts of a stage's training step that do not change: its loss terms, its optimiser and its options.

The loss of a stage is a sum of terms, Σ weight(e) · fn(view), where e is the training progress. `terms_of_task` returns
the terms that need no teacher, `distillation` those of MLCM-KD (arXiv 2510.11128; the sum and its decay λ(e) are our
reading of it, and the heatmap term is from arXiv 2404.06029), and `kd_loss` those of KD-Loss (arXiv 2111.07047).
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from mlcm_jax import codecs, dikd, kinds, landmarks, losses, shape_model
from mlcm_jax.errors import InputError, did_you_mean
from mlcm_jax.models import Prediction
from mlcm_jax.models import network as networks
from mlcm_jax.training.state import adapt

PointLoss = Callable[[jax.Array, jax.Array], jax.Array]  # [B, K, 2] twice -> unreduced [B, K, 2]
POINT_LOSSES = {"l1": losses.l1, "l2": losses.l2, "smooth_l1": losses.smooth_l1, "wing": losses.wing}
LOSSES = (*POINT_LOSSES, "star", "boxes")


@dataclasses.dataclass
class View:
    """What a loss term reads: the student and its outputs for a batch, the frozen teachers, and the target.

    Attributes:
        network: the student, with the parameters that are differentiated.
        adapter: kernels between feature channels, `to_teacher` and `to_student`, or {} if none are needed.
        teachers: frozen networks by the name of their stage.
        images: the images that each teacher reads, [B, H, W, C], by the same names.
        features: the student's features, [B, h, w, C].
        prediction: the student's prediction.
        target: landmarks, float32 [B, K, 2] in u.
        weights: weights of the landmarks, float32 [B, K]; 0 for those that do not count.
        key: random key for the terms.
    """

    network: networks.Network
    adapter: dict[str, jax.Array]
    teachers: dict[str, networks.Network]
    images: dict[str, jax.Array]
    features: jax.Array
    prediction: Prediction
    target: jax.Array
    weights: jax.Array
    key: jax.Array
    _features: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    _predictions: dict[str, Prediction] = dataclasses.field(default_factory=dict)

    def features_of(self, teacher: str) -> jax.Array:
        """The features of a teacher, computed once."""
        if teacher not in self._features:
            self._features[teacher], _ = networks.run_backbone(self.teachers[teacher], self.images[teacher])
        return self._features[teacher]

    def prediction_of(self, teacher: str) -> Prediction:
        """The prediction of a teacher, without gradient, computed once."""
        if teacher not in self._predictions:
            prediction, _ = networks.run_head(self.teachers[teacher], self.features_of(teacher))
            self._predictions[teacher] = jax.lax.stop_gradient(prediction)
        return self._predictions[teacher]

    def adapted(self, teacher: str) -> jax.Array:
        """The student's features, with as many channels as those of a teacher."""
        adapted = adapt(self.features, self.adapter.get("to_teacher"))
        if adapted.shape != self.features_of(teacher).shape:
            raise InputError(
                f"Features of student and teacher differ in size, {adapted.shape[1:]} and "
                f"{self.features_of(teacher).shape[1:]}: give both backbones the same total stride (config.student, "
                "config.light, config.teacher)."
            )
        return adapted


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of a stage's loss.

    Attributes:
        name: the name of its value, without its weight, in the metrics.
        weight: training progress in [0, 1] -> factor.
        fn: view -> float32 [B].
        task: whether it is part of the task loss, by which a student and its control can be compared.
        features: whether it needs features of the same size from student and teacher.
    """

    name: str
    weight: Callable[[jax.Array], jax.Array | float]
    fn: Callable[[View], jax.Array]
    task: bool = False
    features: bool = False


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity, and so hashable
class Recipe:
    """Everything about a stage that does not change from step to step (static under jit).

    Attributes:
        modality: the modality that the student reads.
        terms: the summands of the loss.
        tx: the optimiser.
        total_steps: number of steps of the stage.
        teachers: the modality that each teacher reads, by the name of its stage.
        ema: decay per step of the averaged network.
        occluded_weight: weight of landmarks that are not visible.
        soft: a shape model whose projection of the landmarks is the target (of the tolerant teacher of KD-Loss).
        accumulate: number of micro-batches per step. Their gradients are averaged, but batch normalisation treats each
            micro-batch (of all devices) separately.
    """

    modality: str
    terms: tuple[Term, ...]
    tx: optax.GradientTransformation
    total_steps: int
    teachers: dict[str, str] = dataclasses.field(default_factory=dict)
    ema: float = 0.99
    occluded_weight: float = 1.0
    soft: shape_model.ShapeModel | None = None
    accumulate: int = 1

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that a batch must hold."""
        return tuple(sorted({self.modality, *self.teachers.values()}))

    @property
    def needs_features(self) -> bool:
        """Whether an adapter is needed if the channels of student and teacher differ."""
        return any(term.features for term in self.terms)


def constant(weight: float) -> Callable[[jax.Array], float]:
    """A weight that does not change."""
    return lambda _: weight


def decayed(weight: float, schedule: str) -> Callable[[jax.Array], jax.Array]:
    """A weight that decays by a schedule of `dikd.decay`."""
    return lambda progress: weight * dikd.decay(progress, schedule)


def point_loss(config: ConfigDict) -> PointLoss:
    """Returns config.loss between landmarks in u, computed in per cent of the crop's side.

    The loss "star" is defined on heatmaps, so distillation compares landmarks by L1 with it.

    Raises:
        InputError: an unknown loss, an option that it does not have, or a value that the option cannot have.
    """
    name, options = config.loss.name, dict(config.loss.options)
    if name not in (*POINT_LOSSES, "star"):
        raise InputError(f"config.loss.name={name!r} is unknown; {did_you_mean(name, LOSSES)}")
    is_star = name == "star"
    of_maps = _keywords(losses.star)
    known = of_maps | _keywords(_star_terms) if is_star else _keywords(POINT_LOSSES[name])
    for option, value in options.items():
        if option not in known:
            raise InputError(f"config.loss.options.{option} does not exist for {name!r}; {did_you_mean(option, known)}")
        if not kinds.fits(value, known[option]):
            raise InputError(f"config.loss.options.{option}={value!r} must be {kinds.name(known[option])}.")
        if isinstance(value, int | float) and value < 0 and option != "shift":
            raise InputError(f"config.loss.options.{option}={value!r} must not be negative.")
    function = losses.l1 if is_star else functools.partial(POINT_LOSSES[name], **options)
    points, maps = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((1, 1, 2), (1, 4, 4, 1)))
    try:  # A value that the loss refuses is reported now instead of in the first step.
        of_star = {option: value for option, value in options.items() if option in of_maps} if is_star else {}
        jax.eval_shape(functools.partial(losses.star, **of_star), maps, points)
        jax.eval_shape(function, points, points)
    except ValueError as error:
        raise InputError(f"config.loss.options: {error}.") from error

    def loss(prediction: jax.Array, target: jax.Array) -> jax.Array:
        return function(100.0 * prediction, 100.0 * target)

    return loss


def _keywords(function: Callable) -> dict[str, Any]:
    """The keyword-only parameters of a function, with their types."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {
        parameter.name: parameter.annotation for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
    }


def terms_of_task(config: ConfigDict, layout: landmarks.Layout, *, edges: bool = False) -> tuple[Term, ...]:
    """Returns the terms that compare the student with the truth: config.loss on landmarks, or STAR on AAM heads' maps.

    Args:
        config: the run's config.
        layout: the layout of the landmarks.
        edges: whether the student's head draws edge maps, which STAR then compares as well.
    """
    if config.loss.name != "star":
        return (Term("task", constant(1.0), functools.partial(_landmarks, loss=point_loss(config)), task=True),)
    return _star_terms(layout if edges else None, **config.loss.options)


def likelihood(config: ConfigDict) -> tuple[Term, ...]:
    """Returns the term that trains the uncertainties of a head, if config.loss.uncertainty is not 0."""

    def fn(view: View) -> jax.Array:
        found = view.prediction  # `stages.check` makes sure that it has uncertainties
        return dikd.masked_mean(losses.laplace(found.landmarks, found.uncertainty, view.target), view.weights)

    return (Term("likelihood", constant(config.loss.uncertainty), fn),) if config.loss.uncertainty else ()


def _landmarks(view: View, *, loss: PointLoss) -> jax.Array:
    return dikd.masked_mean(loss(view.prediction.landmarks, view.target), view.weights)


def _star_terms(
    layout: landmarks.Layout | None,
    *,
    point_weight: float = 10.0,
    edge_weight: float = 10.0,
    drawn: int = 256,
    sigma: float = 1.5,
    shift: float = 0.0,
    closed: tuple[str, ...] = (),
    **options: Any,
) -> tuple[Term, ...]:
    """STAR(F, y) + 10 AWing(P, P*) + 10 AWing(E, E*), the loss of arXiv 2404.06029 without its distillation.

    Args:
        layout: the layout whose edges are drawn; None leaves out the term of the edges.
        point_weight: weight of the second term.
        edge_weight: weight of the third term.
        drawn: side of the drawings P* and E* before they are reduced to the size of the maps.
        sigma: see `codecs.point_maps`.
        shift: see `codecs.edge_maps`.
        closed: see `codecs.edge_chains`.
        **options: those of `losses.star`.
    """
    chains = codecs.edge_chains(layout, closed=closed) if layout else ()

    def star(view: View) -> jax.Array:
        if view.prediction.points is None:
            raise InputError("config.loss.name='star' needs models with head 'aam', which give point and edge maps.")
        return dikd.masked_mean(losses.star(view.prediction.heatmaps, view.target, **options), view.weights)

    def points(view: View) -> jax.Array:
        maps = view.prediction.points
        drawing = codecs.point_maps(view.target, maps.shape[1], drawn, sigma)
        return dikd.masked_mean(losses.map_awing(maps, drawing), view.weights)

    def edges(view: View) -> jax.Array:
        maps = view.prediction.edges
        drawing = codecs.edge_maps(view.target, chains, maps.shape[1], drawn, shift=shift)
        return dikd.masked_mean(losses.map_awing(maps, drawing), codecs.edge_weights(chains, view.weights))

    terms = (Term("star", constant(1.0), star, task=True), Term("points", constant(point_weight), points, task=True))
    return (*terms, Term("edges", constant(edge_weight), edges, task=True)) if layout else terms


def distillation(options: ConfigDict, teacher: str, loss: PointLoss) -> tuple[Term, ...]:
    """Returns the terms of MLCM-KD whose weight is not 0: λ(e)·(α·FI + β·RI + γ·FD + δ·LD + maps·MD).

    Args:
        options: config.transfer, config.compress or config.direct.
        teacher: the teacher's stage.
        loss: the loss between landmarks, see `point_loss`.
    """

    def forward(view: View) -> jax.Array:
        apply, kernel = networks.head_function(view.network, train=True, key=view.key), view.adapter.get("to_student")
        params = {"head": view.network.params["head"], "to_student": kernel}

        def head(params: dict[str, Any], features: jax.Array) -> jax.Array:
            return apply(params["head"], adapt(features, params["to_student"]))

        view.adapted(teacher)  # raises if the sizes differ
        return dikd.forward(view.features_of(teacher), (head, params), view.target, loss=loss, weights=view.weights)

    def reverse(view: View) -> jax.Array:
        head = networks.head_function(view.teachers[teacher]), view.teachers[teacher].params["head"]
        return dikd.reverse(
            view.adapted(teacher),
            view.features_of(teacher),
            head,
            view.target,
            loss=loss,
            weights=view.weights,
            reverse_target=options.reverse_target,
        )

    def feature(view: View) -> jax.Array:
        return dikd.feature(view.adapted(teacher), view.features_of(teacher))

    def logit(view: View) -> jax.Array:
        return dikd.logit(view.prediction.landmarks, view.prediction_of(teacher).landmarks, loss=loss)

    def maps(view: View) -> jax.Array:
        ours, theirs = view.prediction.heatmaps, view.prediction_of(teacher).heatmaps
        sizes = [None if one is None else one.shape[1:] for one in (ours, theirs)]
        if sizes[0] is None or sizes[0] != sizes[1]:
            raise InputError(
                f"Distilling heatmaps needs maps of one size; the student's are {sizes[0]}, the teacher's {sizes[1]}; "
                "choose heads with heatmaps and the same resolution."
            )
        return losses.map_distillation(ours, theirs)

    terms = (
        (options.alpha, "forward", forward, True),
        (options.beta, "reverse", reverse, True),
        (options.gamma, "feature", feature, True),
        (options.delta, "logit", logit, False),
        (options.maps, "maps", maps, False),
    )
    chosen = [term for term in terms if term[0]]
    return tuple(Term(name, decayed(weight, options.decay), fn, features=last) for weight, name, fn, last in chosen)


def kd_loss(options: ConfigDict, tough: str, tolerant: str) -> tuple[Term, ...]:
    """Returns the terms of KD-Loss, in per cent of the crop's side: the main term, and one for each of two teachers.

    Args:
        options: config.kd.
        tough: the stage of the teacher that learnt the true landmarks.
        tolerant: the stage of the teacher that learnt their projection onto a shape model.
    """

    def landmarks_of(view: View, teacher: str) -> jax.Array:
        found = view.prediction_of(teacher).landmarks
        if options.control:  # the same key for both teachers: both get the errors of the same other face
            found = losses.control(found, view.target, options.control, key=view.key, weights=view.weights)
        return found

    def main(view: View) -> jax.Array:
        soft = landmarks_of(view, tolerant) if options.tolerant else None
        value = losses.main(view.prediction.landmarks, view.target, tolerant=soft, variant=options.variant)
        return dikd.masked_mean(100.0 * value, view.weights)

    def assistive(teacher: str, number: int) -> Callable[[View], jax.Array]:
        alpha, inner = losses.kd_numbers(options.variant)[number]

        def fn(view: View) -> jax.Array:
            ours, theirs = view.prediction.landmarks, landmarks_of(view, teacher)
            value = losses.assistive(ours, theirs, view.target, alpha=alpha, inner=inner, variant=options.variant)
            return dikd.masked_mean(100.0 * value, view.weights)

        return fn

    terms = [Term("main", constant(options.main_weight), main, task=True)]
    terms += [Term("tough", constant(1.0), assistive(tough, 1))] if options.tough else []
    terms += [Term("tolerant", constant(1.0), assistive(tolerant, 2))] if options.tolerant else []
    return tuple(terms)
