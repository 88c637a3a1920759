"""`python -m simclr_tf.report`: one run, several, broken ones; the page in a real browser."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import TINY

from simclr_tf import evaluate
from simclr_tf.report import main
from simclr_tf.reports.charts import most_confused
from simclr_tf.reports.record import find_runs, read_record
from simclr_tf.run import main as train

Report = Callable[..., tuple[int, str, str]]
EVIL = "<script>alert(1)</script>"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits, evaluated; and one on a folder with a class called <script>, not."""
    home = tmp_path_factory.mktemp("home")
    digits = [*TINY, "--mode=train_then_eval", "--train_steps=4", "--train_summary_steps=1",
              "--online_eval=always", "--checkpoint_steps=2", "--learning_rate=0.3"]  # fmt: skip
    assert train(["simclr-tf", *digits, f"--model_dir={home / 'runs' / 'digits'}"]) == 0
    assert evaluate.main(["evaluate", str(home / "runs" / "digits"), "--protocols="
                          "logistic_regression,knn,health,few_labels"]) == 0  # fmt: skip
    random = np.random.RandomState(0)
    for number in range(24):
        # A folder's name can't hold a slash: the closing tag's is left out.
        folder = home / "photos" / (EVIL.replace("/", "") if number % 2 else "plain")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(0, 256, (8, 8, 3)).astype("uint8")).save(
            folder / f"<b>{number}.png"
        )
    photos = [f"--dataset={home / 'photos'}", "--train_split=train", "--eval_split=all",
              "--train_batch_size=8", "--train_steps=2", "--train_summary_steps=1"]  # fmt: skip
    assert train(["simclr-tf", *TINY, *photos, f"--model_dir={home / 'runs' / 'photos'}"]) == 0
    return home / "runs"


@pytest.fixture(scope="module")
def page_of_photos(runs: Path) -> Path:
    """The page of the run on photos: names that are markup, no evaluation."""
    page = runs.parent / "photos.html"
    assert main(["report", str(runs / "photos"), f"--output={page}"]) == 0
    return page


@pytest.fixture
def report(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Report:
    """Runs the command in the test's folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["report", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def charts_of(path: str) -> dict[str, Any]:
    text = Path(path).read_text(encoding="utf-8")
    (data,) = re.findall(r'id="charts">(.*?)</script>', text)
    return json.loads(data)


def values_of(spec: Any) -> list[list[dict[str, Any]]]:
    """All data that a chart holds."""
    if isinstance(spec, list):
        return [part for each in spec for part in values_of(each)]
    if not isinstance(spec, dict):
        return []
    own = [spec["values"]] if isinstance(spec.get("values"), list) else []
    return own + [part for each in spec.values() for part in values_of(each)]


@pytest.mark.one_lane
def test_the_page_of_a_run(runs: Path, report: Report) -> None:
    code, out, err = report(runs / "digits", "--output=page.html")
    assert code == 0 and out.strip().endswith("Wrote page.html."), err
    text = Path("page.html").read_text(encoding="utf-8")
    evaluation = json.loads((runs / "digits" / "evaluation.json").read_text())
    top_1 = evaluation["results"]["this model"]["logistic_regression"]["top_1"]
    for heading in ("How good it is", "While it trained", "Map of the features",
                    "Nearest neighbours", "Which classes it mixes up",
                    "What the model is asked to recognise", "What was run"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert f"{top_1:.3f}" in text and "images/s" in text and "ollapsed" in text
    data = [values for spec in charts_of("page.html").values() for values in values_of(spec)]
    with open(runs / "digits" / "metrics.csv", newline="") as file:
        losses = [float(row["contrast_loss"]) for row in csv.DictReader(file)]
    assert any([row.get("value") for row in values] == pytest.approx(losses)
               for values in data if len(values) == 4)  # fmt: skip
    (shown,) = [values for values in data if "image" in values[0]]
    assert len(shown) == 32 and all(r["image"].startswith("data:image/png") for r in shown)
    assert text.count('class="image query"') == 8
    assert len(text) < 2_000_000


@pytest.mark.one_lane
def test_it_is_written_into_the_run_and_not_over_another(runs: Path, report: Report) -> None:
    assert report(runs / "photos", "--samples=off")[0] == 0
    page = runs / "photos" / "report.html"
    assert "Not evaluated yet" in page.read_text()
    code, _, err = report(runs / "photos", "--samples=off")
    assert code == 2 and "Expected --output" in err
    assert report(runs / "photos", "--samples=off", "--overwrite")[0] == 0
    page.unlink()


@pytest.mark.one_lane
def test_the_page_of_names_that_are_markup(page_of_photos: Path) -> None:
    text = page_of_photos.read_text(encoding="utf-8")
    assert text.count("<script") == 3 and "&lt;script&gt;alert(1)" in text
    specs = charts_of(str(page_of_photos)).values()
    (shown,) = [v for spec in specs for v in values_of(spec) if "image" in v[0]]
    assert {row["class"] for row in shown} == {EVIL.replace("/", ""), "plain"}
    assert all(row["name"].startswith(("<script", "plain")) for row in shown)


@pytest.mark.one_lane
def test_several_runs(runs: Path, report: Report) -> None:
    for given in ([runs], [runs / "digits", runs / "photos"]):
        code, out, err = report(*given, "--overwrite")
        assert code == 0, err
        lines = [line.split() for line in out.splitlines()]
        assert ["setting", "digits", "photos"] in lines
        assert ["train_steps", "4", "2"] in lines and ["last", "step", "4", "2"] in lines
        assert not any(line[:1] == ["image_size"] for line in lines)  # the same in both
        assert os.listdir() == ["comparison.html"]
    specs = charts_of("comparison.html")
    overlaid = [v for s in specs.values() for v in values_of(s) if "run" in v[0]]
    assert any({row["run"] for row in values} == {"digits", "photos"} for values in overlaid)


@pytest.mark.one_lane
def test_runs_that_are_none_or_broken(runs: Path, report: Report, tmp_path: Path) -> None:
    code, _, err = report("nowhere")
    assert code == 2 and "Expected the model_dir of a run" in err
    (tmp_path / "empty").mkdir()
    assert report("empty")[0] == 2
    shutil.copytree(runs / "digits", "copy/digits")
    code, _, err = report(runs / "digits", "copy/digits")
    assert code == 2 and "'digits' twice" in err
    Path("copy/digits/evaluation.json").write_text("{")
    code, _, err = report("copy/digits")
    assert code == 2 and "Expected a readable JSON file at copy/digits/evaluation.json" in err
    Path("copy/digits/evaluation.json").unlink()
    shutil.rmtree("copy/digits/saved_model")
    for path in Path("copy/digits").glob("ckpt*"):
        path.unlink()
    Path("copy/digits/checkpoint").unlink()
    code, out, err = report("copy/digits")  # a smaller page
    assert code == 0 and "Without a map and neighbours" in out, err
    Path("copy/digits/metrics.csv").write_text("step,contrast_loss\n1,\n2,nan?\n")
    assert report("copy/digits", "--samples=off", "--overwrite")[0] == 0


@pytest.mark.one_lane
def test_an_evaluation_of_an_earlier_step_says_so(runs: Path, report: Report) -> None:
    shutil.copytree(runs / "digits", "digits")
    assert report("digits", "--samples=off", "--output=now.html")[0] == 0
    assert "Of step" not in Path("now.html").read_text(encoding="utf-8")
    with open("digits/metrics.csv", "a") as file:
        file.write("9,1.0\n")
    assert report("digits", "--samples=off", "--output=later.html")[0] == 0
    said = "Of step 4; the run has reached step 9."
    assert said in Path("later.html").read_text(encoding="utf-8")


@pytest.mark.one_lane
def test_a_missing_package_is_named(
    runs: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "altair", None)
    code, _, err = report(runs / "digits", "--output=page.html", "--samples=off")
    assert code == 2 and "pip install 'simclr-tf[report]'" in err and not os.listdir()


@pytest.mark.one_lane
def test_what_a_record_holds(runs: Path) -> None:
    assert find_runs([str(runs)]) == [str(runs / "digits"), str(runs / "photos")]
    record = read_record(str(runs / "digits"))
    assert record.last_step == 4 and record.images == 64 and record.seconds > 0
    assert len(record.metrics) == 4 and len(record.online) == 2 and record.views.startswith("data:")
    assert most_confused([[5, 2, 0], [3, 1, 0], [0, 0, 9]], 5) == [(1, 0, 3), (0, 1, 2)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as tools:
        started = tools.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


@pytest.mark.one_lane
@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width, scheme", [(1400, "light"), (400, "dark")])
def test_in_a_browser(width: int, scheme: str, browser: Any, page_of_photos: Path) -> None:
    """No console error, no request, nothing wider than the screen; hovering and choosing work."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append("a name was run as a script"))
    page.on("request", lambda r: None if r.url[:5] in ("file:", "data:") else trouble.append(r.url))
    page.goto(page_of_photos.as_uri())
    drawn = "[...document.querySelectorAll('.chart')].every(c => c.dataset.drawn === '%s')"
    page.wait_for_function(drawn % scheme, timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    # Hovering shows the picture and the class, as text.
    points = page.locator("path[aria-roledescription='circle']")
    assert points.count() == 24
    points.first.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for(timeout=10_000)
    assert tip.locator("img").get_attribute("src").startswith("data:image/png")
    assert "plain" in tip.inner_text() or "<script>" in tip.inner_text()
    # Choosing by the keyboard fades the other class.
    choice = page.locator(".vega-bindings select")
    choice.focus()
    choice.select_option("plain")
    faded = "[...document.querySelectorAll(\"path[aria-roledescription='circle']\")].filter(" \
            "p => Number(p.getAttribute('opacity') ?? p.style.opacity) < 0.2).length"  # fmt: skip
    page.wait_for_function(f"({faded}) === 12", timeout=10_000)
    assert trouble == []
    context.close()
