"""Pages of models and calibrations: settings, curves, exposure, evaluations side by side."""

from __future__ import annotations

import base64
import re

from engine.page.facts.artifacts.measures import Point, measures
from engine.page.facts.artifacts.model import Setting, artifact_facts
from engine.page.facts.datasets.pictures import pictures_of
from registry import Metric, Registry, Report, StoredFile
from tests.engine.export.test_export import commit
from tests.engine.page.conftest import Visit
from tests.engine.page.crafted import make_hostile, reading


def test_a_model_has_its_base_settings_and_curves(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        model = artifact_facts(reader, registry.manifest("demo/sft", 1))
    assert ("base_model", "smollm2") in model.about
    assert model.settings == (Setting("lr", "0.0001"), Setting("lora.r", "16"), Setting("lora.alpha", "32"))
    assert [(chart.title, chart.axis, len(chart.curves[0].points)) for chart in model.measures.charts] == [
        ("loss", "step", 20),
        ("learning_rate", "step", 20),
    ]
    assert [(each.metric, each.value) for each in model.measures.numbers] == [("trainable_parameters", 4096)]
    assert [(each.name, each.bytes) for each in model.files] == [("adapter.safetensors", 1234567)]


def test_a_model_knows_what_it_saw_and_how_often(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        [seen] = artifact_facts(reader, registry.manifest("demo/sft", 1)).exposure
    assert (str(seen.version), seen.size, seen.rows, seen.times, seen.least, seen.most) == ("demo/judged@1", 21, 6, 8, 1, 3)


def test_evaluations_on_the_same_data_are_shown_side_by_side(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        [found] = artifact_facts(reader, registry.manifest("demo/sft", 1)).evaluations
    assert (found.op, [str(each) for each in found.data], found.labels) == (
        "evaluate",
        ["demo/tests@1"],
        ("demo/sft@1", "before"),
    )
    metric, part, (after, before) = found.lines[0]
    assert (metric, part) == ("accuracy", "")
    assert after
    assert before
    assert (after.value, after.high, before.value) == (0.75, 0.95, 0.25)


def test_a_calibration_has_curves_with_their_target_and_band(registry: Registry, trained: str) -> None:
    with reading(registry) as reader:
        found = artifact_facts(reader, registry.manifest("demo/calibrated", 1)).measures
    reliability, size = found.charts
    assert (reliability.title, reliability.axis, [curve.name for curve in reliability.curves]) == (
        "ecr",
        "alpha",
        ["ecr", "first k"],
    )
    assert [x for x, _ in reliability.target] == [0.1, 0.2, 0.3]
    assert [round(high - low, 2) for _, low, high in reliability.band] == [0.12] * 3
    assert (size.title, [round(point.value, 1) for point in size.curves[0].points]) == ("apss", [2.5, 2.0, 1.5])
    assert [each.metric for each in found.numbers] == ["smallest_alpha"]


def test_values_that_make_no_curve_are_listed_as_numbers() -> None:
    found = measures(
        [
            Metric(metric="accuracy", slice="algebra", value=0.5),
            Metric(metric="accuracy", slice="step 1", value=float("nan")),
            Metric(metric="loss", slice="step 10", value=1.0),
            Metric(metric="only", slice="alpha=0.1", value=1.0),
        ]
    )
    assert found.charts == ()
    assert [(each.metric, each.slice) for each in found.numbers] == [
        ("accuracy", "algebra"),
        ("accuracy", "step 1"),
        ("loss", "step 10"),
        ("only", "alpha=0.1"),
    ]


def test_a_long_curve_is_thinned_out_and_keeps_its_ends() -> None:
    found = measures(Metric(metric="loss", slice=f"step {n}", value=float(n)) for n in range(5000, 0, -1))
    [curve] = found.charts[0].curves
    assert len(curve.points) + curve.left_out == 5000
    assert len(curve.points) <= 1001
    assert (curve.points[0], curve.points[-1]) == (Point(1.0, 1.0), Point(5000.0, 5000.0))


def test_the_pages_answer(registry: Registry, trained: str, visit: Visit) -> None:
    client = visit(registry.root)
    model = client.get("/versions/demo/sft@1")
    assert model.status_code == 200
    assert "0.75" in model.text
    assert client.get("/versions/demo/calibrated@1").status_code == 200
    registry.catalog.forget([registry.manifest("demo/judged", 1).version_id])
    again = client.get("/versions/demo/sft@1")
    assert again.status_code == 200
    assert "removed" in again.text


def test_metrics_of_hostile_names_are_text(registry: Registry) -> None:
    make_hostile(registry)
    with reading(registry) as reader:
        found = artifact_facts(reader, registry.manifest("bad/<u>step</u>", 1)).measures
    assert {each.metric for each in found.numbers} == {"<b>m</b>", "inf"}


def test_one_point_is_drawn_where_it_has_a_target() -> None:
    target = [Metric(metric="ecr_target", slice=f"alpha={at}", value=1 - at) for at in (0.1, 0.2)]
    found = measures([Metric(metric="ecr", slice="alpha=0.2", value=0.75), *target])
    [chart] = found.charts
    assert (chart.title, [curve.points for curve in chart.curves]) == ("ecr", [(Point(0.2, 0.75),)])
    assert (chart.target, found.numbers) == (((0.1, 0.9), (0.2, 0.8)), ())


def test_a_report_shows_its_own_pictures_and_names_others(registry: Registry, visit: Visit) -> None:
    png = b"\x89PNG\r\n\x1a\n" + bytes(20)
    files = {"by size.png": png, "page.png": b"<script>alert(1)</script>", "big.png": png + bytes(4 << 20), "t.csv": b"a,b"}
    stored = {name: registry.store.put_bytes(content) for name, content in files.items()}
    report = Report(
        title="t",
        text="# Found\n\n![by <size>](<by size.png>) ![page](page.png) ![big](big.png) ![t](t.csv) ![far](http://evil.example/p.png)",
        files=[StoredFile(name=name, sha256=each.sha256, bytes=each.bytes) for name, each in stored.items()],
    )
    commit(registry, "demo/report", [[report]])
    html = visit(registry.root).get("/versions/demo/report@1").text
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    assert re.findall(r'<img [^>]*src="([^"]*)" alt="([^"]*)"', html) == [(url, "by &lt;size&gt;")]
    for named in ("page.png", "big.png", "t.csv", "http://evil.example/p.png"):
        assert re.search(rf'<span class="picture">picture: \w+ <code>{re.escape(named)}</code>', html), named


def test_the_pictures_of_a_report_have_a_limit_together(registry: Registry) -> None:
    stored = registry.store.put_bytes(b"\x89PNG\r\n\x1a\n" + bytes((4 << 20) - 8))
    files = [{"name": f"{number}.PNG", "sha256": stored.sha256, "bytes": stored.bytes} for number in range(9)]
    assert list(pictures_of(files, registry.store)) == [f"{number}.PNG" for number in range(8)]
