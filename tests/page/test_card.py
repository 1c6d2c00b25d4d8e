"""A task's card: what is known of it, in words and in pictures."""

import json
import re

import httpx
import pytest
from playwright.sync_api import expect

from ifedicl_serve.contract.artifact import TASK_FILE
from ifedicl_serve.tasks.registry import TaskRegistry
from tests.ifedicl_serve.factory import MODEL, make_artifact
from tests.page.conftest import BANKING, LOSSES, page_application, serving


@pytest.fixture
def card(visit, url):
    return visit(f"{url}/?task=banking").get_by_role("complementary")


def test_labels_template_and_provenance(card, registry):
    expect(card.locator(".labels li")).to_have_text(list(BANKING))
    assert card.locator(".template").inner_text() == "Text: {text}\nTopic:"
    expect(card).to_contain_text("Calibrated on 410 examples of 2 clients in 5 rounds.")
    card.get_by_text("Settings, bytes on the wire and versions").click()
    provenance = dict(row.inner_text().split("\t") for row in card.locator(".provenance tr").all())
    assert provenance == {
        "digest": registry.get("banking").digest,
        "base model": "base",
        "adapted layers": "2–3",
        "adapted sites": "attn, mlp",
        "clients": "2",
        "examples": "410",
        "loss": "restricted",
        "seed": "7",
        "aggregation": "fedavg",
        "learning rate": "0.05",
        "bytes, total": "25,536",
        "version, torch": "2.13.0",
    }


def test_metrics_stand_side_by_side(card):
    row = card.get_by_role("table", name="Held-out metrics").locator("tbody tr")
    assert row.inner_text().split("\t") == ["accuracy", "73.5%", "90.2%"]
    expect(card).to_contain_text("Measured on 102 rows that no client fitted to.")


def test_the_calibration_curve_falls_as_the_loss_did(card):
    expect(card.get_by_role("img")).to_have_attribute(
        "aria-label", "Mean loss by round: " + ", ".join(f"{loss:.3f}" for loss in LOSSES)
    )
    points = card.locator("polyline").get_attribute("points").split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights) and len(heights) == 5
    shares = [(LOSSES[0] - loss) / (LOSSES[0] - LOSSES[-1]) for loss in LOSSES]
    drawn = [(height - heights[0]) / (heights[-1] - heights[0]) for height in heights]
    assert drawn == pytest.approx(shares)


def test_coefficients_are_numbers_in_cells_and_untouched_layers_say_so(card, url):
    body = httpx.get(f"{url}/v1/tasks/banking/fitted").json()["injection"]
    rows = card.get_by_role("table", name="Coefficients by layer and site").locator("tbody tr")
    expect(rows).to_have_count(4)
    for layer in (0, 1):
        expect(rows.nth(layer).locator("td")).to_have_text(["– not adapted"] * 4)
    for layer in (2, 3):
        shown = [float(cell.inner_text()) for cell in rows.nth(layer).locator("td").all()]
        assert shown == pytest.approx(body["beta"][layer] + body["lambda"][layer], abs=0.0051)


def test_colours_diverge_from_the_identity(card, url):
    """Warm above, cool below, and the farthest the strongest."""
    beta = httpx.get(f"{url}/v1/tasks/banking/fitted").json()["injection"]["beta"]
    cells = card.locator(".heatmap tbody tr").nth(2).locator("td")
    for column, value in enumerate(beta[2]):
        kind = cells.nth(column).get_attribute("class")
        assert kind == ("warm" if value >= 1 else "cool")
        share = cells.nth(column).evaluate("cell => cell.style.getPropertyValue('--share')")
        reach = max(abs(value - 1) for row in beta for value in row)
        assert float(share) == pytest.approx(abs(value - 1) / reach, abs=0.001)


def test_the_rung_is_told_in_words(card):
    expect(card.locator(".rung li")).to_have_text(
        [re.compile("^coefficients Two numbers for each")]
    )
    expect(card).to_contain_text("While serving, every token of a prompt is adapted.")
    expect(card.get_by_role("heading", name="Rungs tried")).to_have_count(0)
    expect(card.get_by_role("heading", name="Reading the answer")).to_have_count(0)


@pytest.fixture
def emotion(visit, url):
    return visit(f"{url}/?task=emotion").get_by_role("complementary")


def test_every_part_of_a_rung_is_told_and_what_is_shared(emotion):
    parts = [re.compile("^channels A scale and a shift"), re.compile("^head A vector for each")]
    expect(emotion.locator(".rung li")).to_have_text(parts)
    expect(emotion).to_contain_text("only the tokens behind the text are adapted")


def test_only_the_place_for_the_text_is_marked_in_a_template(emotion):
    expect(emotion.locator(".template")).to_have_text("What does {text} mean? {text}\nThat is:")
    before = emotion.locator("mark").evaluate("mark => mark.previousSibling.data")
    assert before == "What does {text} mean? "


def test_rungs_tried_stand_in_a_table_with_the_chosen_one_marked(emotion):
    rows = emotion.get_by_role("table", name="Rungs tried").locator("tbody tr")
    cells = [row.inner_text().split("\t") for row in rows.all()]
    assert [[" ".join(cell.split()) for cell in row] for row in cells] == [
        ["zero-shot 0 numbers", "1.731", "0.820 ± 0.093", "47.5%"],
        ["channels+head chosen 196,612 numbers", "0.911", "0.000 ± 0.000", "66.3%"],
    ]
    current = [row.get_attribute("aria-current") for row in rows.all()]
    assert current == [None, "true"]


def test_channels_are_shown_by_mean_scale_with_its_spread_and_size_of_shift(emotion, url):
    body = httpx.get(f"{url}/v1/tasks/emotion/fitted").json()["injection"]
    rows = emotion.get_by_role("table", name="Channels by layer and site").locator("tbody tr")
    expect(rows.nth(0).locator("td")).to_have_text(["– not adapted"] * 4)
    cells = rows.nth(2).locator("td")
    shown = [float(cell.inner_text()) for cell in cells.all()]
    assert shown == pytest.approx(body["scale"][2] + body["shift"][2], abs=0.0051)
    mean, spread = body["scale"][2][1], body["scale_spread"][2][1]
    expect(cells.nth(1)).to_have_attribute(
        "title", f"Mean {mean:.3f}, standard deviation {spread:.3f}"
    )
    expect(emotion.locator(".legend").nth(1).locator(".ends span")).to_have_text(
        ["0.00", f"{max(map(max, body['shift'])):.2f}"]
    )


def test_biases_are_bars_to_both_sides_of_the_middle(emotion, url):
    readout = httpx.get(f"{url}/v1/tasks/emotion/fitted").json()["readout"]
    expect(emotion).to_contain_text("multiplied by the sharpness, 1.500; then its bias and the")
    rows = emotion.get_by_role("table", name="Biases of the labels").locator("tbody tr")
    reach = max(map(abs, readout["bias"].values()))
    for row, (label, bias) in zip(rows.all(), readout["bias"].items(), strict=True):
        name, value = row.inner_text().split("\t")
        assert (name, float(value.replace("−", "-"))) == (label, pytest.approx(bias, abs=0.0051))
        left, width, whole = row.locator(".bar").evaluate(
            """bar => {
              const style = getComputedStyle(bar, "::before");
              return [style.marginLeft, style.width, getComputedStyle(bar).width].map(parseFloat);
            }"""
        )
        assert width / whole == pytest.approx(abs(bias) / reach / 2, abs=0.02)
        assert (left if bias > 0 else left + width) == pytest.approx(whole / 2, abs=1)


def test_a_task_that_adapts_nothing_says_so_in_place_of_empty_charts(visit, url):
    card = visit(f"{url}/?task=spam").get_by_role("complementary")
    expect(card).to_contain_text("Calibrated on 8 examples of 1 client.")
    expect(card).to_contain_text("It was fitted without rounds.")
    expect(card).to_contain_text("Nothing is changed: the task adapts no layer.")
    expect(card).to_contain_text("the model runs as it would without the task")
    expect(card.locator(".heatmap")).to_have_count(0)
    assert "adapted layers\tnone" in card.locator(".provenance").first.inner_text()
    expect(card.get_by_role("table", name="Biases of the labels")).to_be_visible()


def test_a_task_without_losses_and_metrics_says_so(visit, url):
    card = visit(f"{url}/?task=hostile").get_by_role("complementary")
    expect(card).to_contain_text("Not recorded: withheld for privacy")
    expect(card.get_by_role("img")).to_have_count(0)


def test_other_words_for_a_label_are_told(visit, url):
    card = visit(f"{url}/?task=hostile").get_by_role("complementary")
    expect(card.locator(".labels li").first).to_contain_text("read as “a”")


def test_the_rest_of_the_card_is_shown_when_what_was_fitted_cannot_be_read(visit, url):
    """As while the artifact is being replaced."""
    error = {"message": "the artifact cannot be read", "type": "ServiceUnavailableError"}
    page = visit(url)
    page.route(
        "**/fitted",
        lambda route: route.fulfill(status=503, json={"error": error | {"code": 503}}),
    )
    page.goto(f"{url}/?task=banking")
    card = page.get_by_role("complementary")
    expect(card.locator(".error")).to_have_text("the artifact cannot be read")
    expect(card.locator(".labels li")).to_have_text(list(BANKING))


def test_many_layers_and_labels_fit(visit, registry, tmp_path):
    """80 layers scroll in a box of their own, and 300 labels and biases are folded away."""
    make_artifact(
        tmp_path / "large",
        name="large",
        labels=tuple(f"label {number}" for number in range(300)),
        layers=tuple(range(80)),
        num_layers=80,
        rung="channels+head",
    )
    assert json.loads((tmp_path / "large" / TASK_FILE).read_text())["num_layers"] == 80
    own = TaskRegistry(tmp_path, MODEL, registry.tokenizer)
    with serving(page_application(own)) as url:
        card = visit(f"{url}/?task=large").get_by_role("complementary")
        expect(card.locator(".heatmap tbody tr")).to_have_count(80)
        assert card.get_by_role("region", name="Channels").bounding_box()["height"] <= 440
        expect(card.locator(".labels")).to_be_hidden()
        card.get_by_text("Show all 300 labels").click()
        expect(card.locator(".labels li").last).to_be_attached()
        biases = card.get_by_role("table", name="Biases of the labels")
        expect(biases).to_be_hidden()
        card.get_by_text("Show all 300 biases").click()
        expect(biases.locator("tbody tr")).to_have_count(300)
