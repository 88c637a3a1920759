"""The report of a run, and the comparison of several: which sections, from which files."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from simclr_tf.config import Config
from simclr_tf.errors import UserError
from simclr_tf.evaluation.figures import Figure, headline
from simclr_tf.files.atomic_file import new_file
from simclr_tf.files.load_failures import one_line
from simclr_tf.reports import charts
from simclr_tf.reports.page import Page
from simclr_tf.reports.record import RunRecord
from simclr_tf.reports.tables import figure_text

if TYPE_CHECKING:
    from simclr_tf.reports.samples import Samples

_MOST_CLASSES = 30  # of a confusion matrix that is drawn
_MOST_MISTAKES = 15
_SAME_FOR_ALL = ("model_dir", "mode")
Say = Callable[[str], None]


@contextlib.contextmanager
def of_our_form(records: Sequence[RunRecord]) -> Iterator[None]:
    """Turns what results of another form make fail into a `UserError`.

    Args:
        records: The runs. Their JSON files are read as our commands write them; one that was
            changed by hand or by another program may hold anything anywhere.
    """
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        folders = ", ".join(record.folder for record in records)
        raise UserError(
            f"Expected settings and results as our commands write them in {folders}; received: "
            f"another form ({one_line(error)}). Evaluate the run again, or "
            "remove the file that was changed."
        ) from error


def write_report(record: RunRecord, path: str, say: Say, samples: bool = True) -> None:
    """Writes the page of a run, complete or not at all.

    Args:
        record: The run.
        path: HTML file to write.
        say: Called with lines about what had to be left out.
        samples: Whether images are embedded for the map and the neighbours.

    Raises:
        UserError: Altair is not installed.
    """
    charts.import_altair()
    page = Page(f"{record.name}: {record.settings.get('dataset', 'images')}", charts.scripts())
    _summary(page, record)
    _evaluation(page, [record])
    shown = _samples(record, say) if samples else None
    if shown is not None:
        _map(page, shown)
        _neighbours(page, shown)
    _confusion(page, record)
    _curves(page, [record])
    if record.views:
        page.section("What the model is asked to recognise")
        page.picture(
            record.views,
            "training images, each beside its random views",
            "Training images beside their augmented views, as the first step saw them.",
        )
    _settings(page, record)
    page.section("What to do next")
    page.commands(_next_commands(record))
    _write(page, path)


def write_comparison(records: Sequence[RunRecord], path: str) -> None:
    """Writes one page of several runs: settings that differ, results, curves overlaid.

    Args:
        records: Two runs or more.
        path: HTML file to write.

    Raises:
        UserError: Altair is not installed.
    """
    charts.import_altair()
    page = Page(f"{len(records)} runs", charts.scripts())
    header, rows = differing_settings(records)
    page.section("Settings that differ", "" if rows else "None: the runs differ in nothing set.")
    if rows:
        page.table(header, rows, text_columns=range(len(header)), caption="settings that differ")
    page.section("Results")
    page.table(*results_of(records), caption="results of each run")
    _evaluation(page, records)
    _curves(page, records)
    _write(page, path)


def differing_settings(records: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """Returns a header and rows: settings that are not the same in all runs."""
    names = dict.fromkeys(name for record in records for name in record.settings)
    defaults = Config().to_dict()
    rows = []
    for name in names:
        values = [r.settings.get(name, defaults.get(name)) for r in records]
        if name not in _SAME_FOR_ALL and len({repr(value) for value in values}) > 1:
            rows.append([name, *map(str, values)])
    return ["setting", *(r.name for r in records)], rows


def results_of(records: Sequence[RunRecord]) -> tuple[list[str], list[list[str]]]:
    """Returns a header and rows: what each run reached, a column for each."""
    columns = []
    for record in records:
        found: dict[str, str] = {"last step": f"{record.last_step:,}"}
        if record.seconds:
            found["training"] = _duration(record.seconds)
            found["images/s"] = f"{record.images / record.seconds:,.0f}"
        for name, value in record.results.items():
            if name.startswith("eval/"):
                found[name.removeprefix("eval/").replace("_", " ")] = f"{value:.4f}"
        for kind, row in record.comparison.items():
            if kind == "this run":
                found |= {name.replace("_", " "): f"{v:.4f}" for name, v in row.items()}
        for figure in _figures(record).values():
            name = f"{figure.protocol}, {figure.measure}"
            found[name] = f"{figure.value:.4f}"
        columns.append(found)
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "–") for column in columns)] for name in names]
    return ["", *(r.name for r in records)], rows


def _summary(page: Page, record: RunRecord) -> None:
    settings = record.settings
    trained = f"{record.last_step:,} steps of {settings.get('train_batch_size', '?')} images"
    if record.seconds:
        speed = record.images / record.seconds
        trained += f", {_duration(record.seconds)}, {speed:,.0f} images/s"
    page.paragraph(
        f"{settings.get('train_mode', 'pretrain')} on {settings.get('dataset', '?')} "
        f"({settings.get('train_split', 'train')}): {trained}.",
        "soft",
    )
    verdict = record.evaluation.get("results", {}).get("this model", {}).get("health", {})
    if "verdict" in verdict:
        page.paragraph(verdict["verdict"], "verdict bad" if verdict["collapsed"] else "verdict")


def _settings(page: Page, record: RunRecord) -> None:
    settings = record.settings
    defaults = Config().to_dict()
    chosen = [
        [name, str(value)]
        for name, value in settings.items()
        if name in defaults and value != defaults[name] and name not in _SAME_FOR_ALL
    ]
    page.section("What was run")
    page.folded(f"{len(chosen)} settings other than the defaults")
    page.table(["", ""], chosen, text_columns=(1,), kind="facts", caption="settings")
    page.unfolded()


def _evaluation(page: Page, records: Sequence[RunRecord]) -> None:
    for record in records:
        results = record.evaluation.get("results")
        heading = "How good it is" if len(records) == 1 else f"Evaluation of {record.name}"
        if results:
            data = record.evaluation.get("data", {})
            page.section(
                heading,
                f"Frozen features of {data.get('dataset', 'a file')}: classifiers fitted to "
                f"{data.get('train_images'):,} images, scored on {data.get('test_images'):,}."
                + _stale(record),
            )
            columns = {kind: _figures(record, kind) for kind in results}
            keys = dict.fromkeys(key for column in columns.values() for key in column)
            rows, before = [], ""
            for protocol, measure in keys:
                cells = [_cell(column.get((protocol, measure))) for column in columns.values()]
                rows.append(["" if protocol == before else protocol, measure, *cells])
                before = protocol
            page.table(
                ["protocol", "measure", *columns], rows, text_columns=(1,), caption="evaluation"
            )
        elif len(records) == 1 and record.comparison:
            page.section(heading, "Test accuracy, after the run.")
            kinds = {k: v for k, v in record.comparison.items() if isinstance(v, Mapping)}
            measures = list(dict.fromkeys(name for row in kinds.values() for name in row))
            rows = [[k, *(f"{v[m]:.3f}" for m in measures)] for k, v in kinds.items()]
            names = [name.replace("_", " ") for name in measures]
            page.table(["features", *names], rows, caption="test accuracy")
        elif len(records) == 1:
            page.section(heading, "Not evaluated yet; the command stands at the end.")


def _stale(record: RunRecord) -> str:
    """Says where the evaluation is of another step than the run's last."""
    step = record.evaluation.get("model", {}).get("step")
    if not step or step == record.last_step:
        return ""
    return f" Of step {step:,}; the run has reached step {record.last_step:,}."


def _figures(record: RunRecord, kind: str = "this model") -> dict[tuple[str, str], Figure]:
    found = record.evaluation.get("results", {}).get(kind, {})
    return {(figure.protocol, figure.measure): figure for figure in headline(found)}


def _curves(page: Page, records: Sequence[RunRecord]) -> None:
    drawn = charts.curves(records)
    if drawn:
        page.section("While it trained", "Drag to move along the steps, scroll to zoom.")
        page.charts(drawn)


def _samples(record: RunRecord, say: Say) -> Samples | None:
    from simclr_tf.reports.samples import read_samples

    try:
        return read_samples(record.folder, record.settings, int(record.settings.get("seed", 0)))
    except UserError as error:
        say(f"Without a map and neighbours: {error}")
        return None


def _map(page: Page, shown: Samples) -> None:
    if shown.places is None:
        return
    page.section(
        "Map of the features",
        f"{len(shown.names):,} images of {shown.split}, placed by t-SNE of their cosines: images "
        "that are close have similar features; distances between groups mean nothing.",
    )
    spec = charts.feature_map(shown.places.tolist(), shown.labels, shown.names, shown.pictures)
    page.charts([("map", spec)])


def _neighbours(page: Page, shown: Samples) -> None:
    if not shown.queries:
        return
    said = " A red frame and a cross mark another class." if shown.labels is not None else ""
    page.section("Nearest neighbours", f"Left the query, then the most similar images.{said}")
    labels, names = shown.labels, shown.names
    for query, found in zip(shown.queries, shown.neighbours, strict=True):
        row = [(shown.pictures[query], labels[query] if labels else names[query], "query")]
        for i in found:
            kind = "" if labels is None else "right" if labels[i] == labels[query] else "wrong"
            row.append((shown.pictures[i], labels[i] if labels else names[i], kind))
        page.row_of_images(row)


def _confusion(page: Page, record: RunRecord) -> None:
    found = record.evaluation.get("results", {}).get("this model", {})
    confusion = found.get("logistic_regression", {}).get("confusion")
    if not confusion:
        return
    given = record.evaluation.get("data", {}).get("class_names")
    names = given or [str(i) for i in range(len(confusion))]
    names = [*names, *map(str, range(len(names), len(confusion)))]
    page.section("Which classes it mixes up", "Logistic regression on the frozen features.")
    if len(confusion) <= _MOST_CLASSES:
        widest = 150 + 40 * len(confusion)
        page.charts([("confusion matrix", charts.confusion_chart(confusion, names))], widest)
    mistakes = charts.most_confused(confusion, _MOST_MISTAKES)
    rows = [[names[true], names[predicted], str(count)] for true, predicted, count in mistakes]
    header = ["true class", "taken for", "images"]
    page.table(header, rows, text_columns=(1,), caption="most frequent mistakes")


def _next_commands(record: RunRecord) -> list[tuple[str, str]]:
    folder = shlex.quote(record.folder)
    dataset = shlex.quote(str(record.settings.get("dataset", "DATASET")))
    return [
        ("Evaluate by every protocol", f"python -m simclr_tf.evaluate {folder}"),
        (
            "Fine-tune on labels",
            f"python -m simclr_tf.run --mode=train_then_eval --train_mode=finetune "
            f"--checkpoint={folder} --dataset={dataset} "
            f"--image_size={record.settings.get('image_size', 224)} --model_dir=finetuned",
        ),
        ("Export", f"python -m tf_hub_export --checkpoint={folder} --output=module"),
        (
            "Features of all images",
            f"python -m simclr_tf.embed --checkpoint={folder} --dataset={dataset} "
            "--output=features.npz",
        ),
    ]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    spread = "" if figure.spread is None else f" ± {figure.spread:.3f}"
    return f"{figure_text(figure)}{spread}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _write(page: Page, path: str) -> None:
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(page.html())
