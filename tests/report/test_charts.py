"""What the charts show, whatever the numbers."""

import pytest

from prunerzero.report.charts import improvements, perplexity_chart
from prunerzero.report.layer_charts import overall_sparsity, sensitivity_chart, sparsity_chart
from prunerzero.report.run_charts import course_chart


def test_bars_stand_dense_first_then_from_best_to_worst(summary):
    chart = perplexity_chart(summary["perplexity"])
    assert [label.strip("</b>") for label in chart.layout.yaxis.ticktext][:3] == [
        "dense",
        "evolved",
        "power law",
    ]
    assert [trace.text[1] for trace in chart.data] == ["31.24", "30.87"]


def test_only_the_evolved_bar_has_its_colour(summary):
    colours = perplexity_chart(summary["perplexity"]).data[0].marker.color
    assert colours.count(colours[1]) == 1


def test_one_hopeless_metric_does_not_flatten_the_others(summary):
    summary["perplexity"]["test"]["magnitude"] = 1e6
    chart = perplexity_chart(summary["perplexity"])
    assert max(chart.data[0].x) < 200
    assert chart.data[0].text[-1] == "▸ 1.0e+06"


def test_enormous_perplexities_stay_at_the_upper_edge(history):
    chart = course_chart(history, {})
    lowest, highest = (10**bound for bound in chart.layout.yaxis.range)
    assert lowest < 30.87 and highest < 400
    raced_out = chart.data[0]
    assert raced_out.marker.symbol[0] == "triangle-up" and raced_out.y[0] <= highest


def test_an_evaluation_that_was_raced_out_is_never_the_best(history):
    assert [number for number, _ in improvements(history)] == [2, 4, 6]


def test_hovering_tells_the_formula(history):
    finished = course_chart(history, {}).data[1]
    assert finished.hovertext[-1].startswith("W * sqrt(X) * sqrt(G)<br>perplexity 30.87")


def test_the_axis_has_round_numbers(history):
    for spread in (1.001, 1.2, 3.0, 50.0):
        history[0] |= {"state": "complete", "perplexity": 30.87 * spread}
        chart = course_chart(history, {})
        assert len(chart.layout.yaxis.tickvals) >= 3


@pytest.mark.parametrize("blocks", [1, 6, 43])
def test_layers_form_a_grid_of_blocks_and_kinds(blocks):
    layers = [
        {"name": f"model.layers.{block}.mlp.{kind}", "shape": [8, 8], "sparsity": 0.5}
        for block in range(blocks)
        for kind in ("up_proj", "down_proj")
    ]
    chart = sparsity_chart(layers)
    assert [len(line) for line in chart.data[0].z] == [blocks, blocks]
    assert list(chart.layout.yaxis.ticktext) == ["up_proj", "down_proj"]


def test_the_experts_of_a_block_share_a_cell():
    layers = [
        {"name": f"layers.0.experts.{expert}.w1", "shape": [4, 4], "sparsity": expert / 2}
        for expert in range(2)
    ]
    assert sparsity_chart([*layers, {**layers[0], "name": "lm_head"}]).data[0].z[0][0] == 0.25


def test_a_large_layer_counts_more_than_a_small_one():
    layers = [{"shape": [30, 10], "sparsity": 0.6}, {"shape": [10, 10], "sparsity": 0.2}]
    assert overall_sparsity(layers) == pytest.approx(0.5)
    assert overall_sparsity([]) is None


def test_of_experts_that_share_a_cell_the_most_sensitive_shows():
    layers = [
        {"name": f"layers.0.experts.{expert}.w1", "shape": [4, 4], "sensitivity": value}
        for expert, value in enumerate((-0.01, 0.25, 0.1))
    ]
    chart = sensitivity_chart(layers)
    assert chart.data[0].z[0][0] == 0.25
    assert "experts.1.w1<br>0.25" in chart.data[0].hovertext[0][0]
