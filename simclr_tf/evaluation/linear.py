"""Linear classifiers on frozen features: logistic regression over the paper's grid, and ridge."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

# SimCLR, appendix B.8, after Kornblith et al. 2019: 45 values from 1e-6 to 1e5.
PENALTIES = tuple(float(x) for x in np.logspace(-6, 5, 45))
VALIDATION_SHARE = 0.2
MOST_ITERATIONS = 500
_ROWS = 4096  # at a time, in float64
# Up to this many values one thread fits fastest: more threads busy-wait for each other
# (raw digits, 4,000 x 784, on two cores: one thread takes a tenth of the processor time).
_ONE_THREAD = 2**24


class LinearResult(NamedTuple):
    """A linear classifier's scores on the test images.

    Attributes:
        class_scores: (M, classes), larger is likelier.
        penalty: The weight of the squared norm that was chosen on the validation part.
        validation_accuracy: In [0, 1], of the chosen penalty.
        converged: Whether the last fit ended before its limit of iterations.
    """

    class_scores: np.ndarray
    penalty: float
    validation_accuracy: float
    converged: bool


def logistic_regression(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    num_classes: int | None = None,
    seed: int = 0,
) -> LinearResult:
    """Multinomial logistic regression by L-BFGS, its penalty chosen on a validation part.

    It minimises the sum of the cross-entropies plus `penalty` / 2 times the squared norm of the
    weights: scikit-learn's C is 1 / penalty. Features are standardised by the training images. A
    fifth of the training images, of the same shares of classes, chooses the penalty; the classifier
    is then fitted to all of them. The test images choose nothing. Fits go from the largest penalty
    to the smallest, each from where the one before ended; the last one from where the chosen one
    did.

    Args:
        train_features: (N, d).
        train_labels: (N,) class ids from 0 on.
        test_features: (M, d).
        penalties: Above 0.
        num_classes: Number of classes; None: from the labels.
        seed: Chooses the fifth.

    Returns:
        A `LinearResult`; its scores are probabilities.

    Raises:
        ValueError: One class only.

    Source: SimCLR, section 4.2 and appendix B.8.

    Example:
        >>> result = logistic_regression(features, labels, test_features)
        >>> (result.class_scores.argmax(axis=1) == test_labels).mean()
    """
    classes = _check_classes(train_labels, num_classes)
    fit, held = validation_part(train_labels, seed)
    strongest_first = sorted(penalties, reverse=True)
    used = _varying(train_features)
    with blas_threads(train_features):
        known, unknown = (train_features[np.ix_(part, used)] for part in (fit, held))
        scaler = _scaler(known)
        known, unknown = scaler.transform(known), scaler.transform(unknown)
        validation_accuracy = -1.0
        for penalty, probe in _fits(known, train_labels[fit], strongest_first):
            accuracy = float(probe.score(unknown, train_labels[held]))
            if accuracy > validation_accuracy:  # of equals the strongest
                validation_accuracy, best, final = accuracy, penalty, copy.deepcopy(probe)
        known = np.take(train_features, used, axis=1)
        scaler = _scaler(known)
        # From the classifier of four fifths: a cold start takes many times the iterations.
        with _without_convergence_warning():
            final.fit(scaler.transform(known), train_labels)
        found = final.predict_proba(scaler.transform(np.take(test_features, used, axis=1)))
    scores = np.zeros((len(test_features), classes), np.float32)
    scores[:, final.classes_] = found
    converged = int(np.max(final.n_iter_)) < MOST_ITERATIONS
    return LinearResult(scores, best, validation_accuracy, converged)


def ridge(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
    num_classes: int | None = None,
    seed: int = 0,
) -> LinearResult:
    """Ridge regression on one-hot labels in closed form: one decomposition serves every penalty.

    Cheap enough to run while training: its cost is that of the eigenvectors of a (d, d) matrix.
    Features are standardised. The penalty is chosen as in `logistic_regression`.

    Args:
        train_features: (N, d).
        train_labels: (N,) class ids from 0 on.
        test_features: (M, d).
        penalties: Of the squared norm, above 0, on the sum of squared errors.
        num_classes: Number of classes; None: from the labels.
        seed: Chooses the fifth of the training images that chooses the penalty.

    Returns:
        A `LinearResult`; its scores are regressions on labels of -1 and 1. It equals scikit-learn's
        `RidgeClassifier`, which decomposes anew for each penalty.

    Raises:
        ValueError: One class only.

    Source: big_vision's few-shot evaluator: ridge regression on frozen features.

    Example:
        >>> ridge(features, labels, test_features).penalty
    """
    classes = _check_classes(train_labels, num_classes)
    fit, held = validation_part(train_labels, seed)
    strongest_first = sorted(penalties, reverse=True)
    fitted = _RidgePath(train_features[fit], train_labels[fit], classes)
    rows = fitted.project(train_features[held])
    by_penalty = {
        p: float(np.mean(fitted.predict(rows, p).argmax(axis=1) == train_labels[held]))
        for p in strongest_first
    }
    best = max(strongest_first, key=lambda p: by_penalty[p])  # of equals the strongest
    fitted = _RidgePath(train_features, train_labels, classes)
    scores = fitted.predict(fitted.project(test_features), best)
    return LinearResult(scores, best, by_penalty[best], True)


class _RidgePath:
    """Ridge regression of labels of -1 and 1 on standardised features, for every penalty."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int) -> None:
        self._scaler = _scaler(features)
        width = features.shape[1]
        gram, moment = np.zeros((width, width)), np.zeros((width, classes))
        shares = np.bincount(labels, minlength=classes) / len(labels)
        self._mean = 2 * shares - 1  # of the targets
        for start in range(0, len(features), _ROWS):
            part = slice(start, start + _ROWS)
            rows = self._scaler.transform(features[part]).astype(np.float64)
            targets = np.full((len(rows), classes), -1.0)
            targets[np.arange(len(rows)), labels[part]] = 1
            gram += rows.T @ rows
            moment += rows.T @ (targets - self._mean)
        self._values, self._vectors = np.linalg.eigh(gram)
        self._projected = self._vectors.T @ moment

    def project(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 (M, d): features along the eigenvectors, for `predict`."""
        return self._scaler.transform(features) @ self._vectors

    def predict(self, projected: np.ndarray, penalty: float) -> np.ndarray:
        """Returns float32 (M, classes)."""
        # Rounding leaves eigenvalues of no variance a little below zero.
        shrunk = self._projected / (np.maximum(self._values, 0)[:, None] + penalty)
        return (projected @ shrunk + self._mean).astype(np.float32)


def validation_part(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions of the images to fit to and of those that choose: a fifth of each class.

    A class keeps at least one image to fit to. Where that leaves none to choose, all images do
    both.

    Args:
        labels: (N,) class ids.
        seed: Of the draw.

    Returns:
        Ascending positions in `labels`, each image in one part.

    Example:
        >>> [len(part) for part in validation_part(np.zeros(10, int), seed=0)]
        [8, 2]
    """
    draw = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    left = []
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        count = int(VALIDATION_SHARE * len(members))
        held.append(members[:count])
        if not count:
            left.append(members[1:])
    # Small classes give what is missing together.
    rest = draw.permutation(np.concatenate(left)) if left else np.zeros(0, int)
    held.append(rest[: round(VALIDATION_SHARE * len(rest))])
    chosen = np.sort(np.concatenate(held))
    if not len(chosen):
        return np.arange(len(labels)), np.arange(len(labels))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _fits(
    features: np.ndarray, labels: np.ndarray, penalties: Sequence[float]
) -> Iterator[tuple[float, LogisticRegression]]:
    """Yields one classifier, fitted to each penalty in turn."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(warm_start=True, max_iter=MOST_ITERATIONS, tol=1e-4)
    for penalty in penalties:
        probe.set_params(C=1 / penalty)
        with _without_convergence_warning():
            probe.fit(features, labels)
        yield penalty, probe


def _varying(features: np.ndarray) -> np.ndarray:
    """Returns the numbers of the features that are not the same for all images.

    The others, as the margins of digits, get no weight but take as long. Where all are constant
    they are all returned.
    """
    varying = np.flatnonzero(features.max(axis=0) != features.min(axis=0))  # NaN too: refused later
    return varying if len(varying) else np.arange(features.shape[1])


def _scaler(features: np.ndarray) -> StandardScaler:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(features)


def blas_threads(features: np.ndarray) -> contextlib.AbstractContextManager[object]:
    """Limits small fits to one thread; several would only wait for each other."""
    from threadpoolctl import threadpool_limits  # scikit-learn's own

    return threadpool_limits(1 if features.size <= _ONE_THREAD else None, user_api="blas")


def fit_side_by_side(values: int) -> bool:
    """Returns whether kinds of so many values together are small: see `side_by_side`."""
    return values <= _ONE_THREAD


@contextlib.contextmanager
def side_by_side(kinds: Sequence[np.ndarray]) -> Iterator[ThreadPoolExecutor]:
    """Gives threads in which several kinds of features are fitted, one to each core where small.

    Small fits use one thread. Together the kinds are then no larger than one such fit may be, and
    so are the copies that scikit-learn makes of them. Others wait for each other.

    Args:
        kinds: The features that will be fitted.

    Example:
        >>> with side_by_side([pixels, features]) as pool:
        ...     accuracies = list(pool.map(fit_and_score, [pixels, features]))
    """
    small = fit_side_by_side(sum(kind.size for kind in kinds))
    threads = min(os.cpu_count() or 1, len(kinds)) if small else 1
    # Each fit sets and restores limit and filter for the whole process: while others run they stay
    # as they are here.
    with contextlib.ExitStack() as stack:
        if threads > 1:
            stack.enter_context(blas_threads(kinds[0]))
            stack.enter_context(_without_convergence_warning())
        yield stack.enter_context(ThreadPoolExecutor(max(1, threads)))


@contextlib.contextmanager
def _without_convergence_warning() -> Iterator[None]:
    """Hides scikit-learn's warning that a fit did not converge: `converged` says it."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _check_classes(labels: np.ndarray, num_classes: int | None) -> int:
    present = np.unique(labels)
    if len(present) < 2:
        raise ValueError("Expected two classes or more; received: one. Nothing to tell apart.")
    return int(present[-1]) + 1 if num_classes is None else num_classes
