from pipeline.results.published import published
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.mlflow_runs import start_run
from pipeline.tracking.published_runs import record_published
from pipeline.tracking.queries import evaluated_runs


def test_published_results_are_recorded_once_beside_ours(store: str) -> None:
    ours = start_run(
        store, "ours", run_name="mine", params={"recipe.network.name": "alexnet"}, tags={}
    )
    alexnets = [result for result in published() if result.network == "alexnet"]
    assert record_published(store, "ours", alexnets[:2]) == 2
    assert record_published(store, "ours", alexnets[:3]) == 1
    assert record_published(store, "ours", alexnets[:3]) == 0
    client = connect(store)
    experiment = client.get_experiment_by_name("ours")
    newest, *theirs = client.search_runs([experiment.experiment_id])
    assert newest.info.run_id == ours  # not below results that were put there later
    assert len(theirs) == 3
    (single,) = (run for run in theirs if run.data.tags["published.id"] and run.data.metrics.get(
        "eval/val/ten-crop-square-256-224/top1_error") == 40.7)  # fmt: skip
    assert single.info.status == "FINISHED"
    assert single.data.metrics["eval/val/ten-crop-square-256-224/top5_error"] == 18.2
    assert single.data.tags["kind"] == "published"
    assert single.data.params["recipe.network.name"] == "alexnet"
    name = "eval/val/ten-crop-square-256-224"
    assert single.data.metrics.keys() == {f"{name}/top1_error", f"{name}/top5_error"}
    assert single.data.tags[f"{name}/images"] == "50000"
    assert single.data.tags["mlflow.source.name"] == "Krizhevsky et al. 2012, Table 2"
    note = single.data.tags["mlflow.note.content"]
    assert note.startswith("`alexnet` trained on ilsvrc2012, as published.")
    assert "top-1 error **40.7 %**, top-5 error **18.2 %** on val by " in note
    assert "Source: Krizhevsky et al. 2012, Table 2" in note
    (data,) = client.get_run(single.info.run_id).inputs.dataset_inputs
    assert data.dataset.name == "ilsvrc2012"


def test_published_results_are_not_among_the_evaluated_runs(store: str) -> None:
    start_run(store, "ours", run_name="mine", params={}, tags={})
    record_published(store, "ours", published()[:1])
    assert [run.name for run in evaluated_runs(store, "ours")] == ["mine"]
