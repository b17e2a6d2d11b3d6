import pytest

from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import connect
from pipeline.tracking.model_registry import register_model
from pipeline.tracking.queries import tracked_run


def log_empty_model(store: str, run_id: str) -> str:
    from mlflow.entities import LoggedModelOutput

    client = connect(store)
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, name="net")
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.artifact_location)


def test_a_run_has_one_version_with_its_results_as_tags(store: str, run_id: str) -> None:
    location = log_empty_model(store, run_id)
    run = tracked_run(store, run_id)
    assert register_model(store, run, "lenet5", {"val/whole": "2.5"}) == 1
    assert register_model(store, run, "lenet5", {"val/whole": "2.4", "val/flip": "2.3"}) == 1
    (version,) = connect(store).search_model_versions("name = 'lenet5'")
    assert version.tags == {"val/whole": "2.4", "val/flip": "2.3"}
    assert (version.source, version.run_id) == (location, run_id)
    assert register_model(store, run, "best", {}) == 1


def test_a_run_without_a_model_is_refused(store: str, run_id: str) -> None:
    with pytest.raises(UserError, match=r"run 'first' has no model yet; `ilsvrc train` goes on"):
        register_model(store, tracked_run(store, run_id), "lenet5", {})
    assert not connect(store).search_registered_models()
