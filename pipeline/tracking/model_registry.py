"""Registers trained networks in MLflow's model registry, with their results as tags."""

from collections.abc import Mapping

from pipeline.runtime.errors import UserError
from pipeline.tracking.mlflow_client import connect, user_errors
from pipeline.tracking.queries import TrackedRun


def register_model(uri: str, run: TrackedRun, name: str, tags: Mapping[str, str]) -> int:
    """Register the final network of `run` under `name` with `tags`; return its version.

    A run has one version of a name, which gets the new tags when it is registered again. Raises
    `UserError` for a run that has no model, since its training is not complete.
    """
    with user_errors(uri):
        client = connect(uri)
        from mlflow.exceptions import MlflowException

        outputs = client.get_run(run.run_id).outputs
        if not outputs or not outputs.model_outputs:
            raise UserError(f"run '{run.name}' has no model yet; `ilsvrc train` goes on with it")
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # By its location: `models:/ID` would be looked up in MLflow's global store.
        model = client.get_logged_model(outputs.model_outputs[-1].model_id)
        versions = client.search_model_versions(f"run_id = '{run.run_id}'")
        version = next((found.version for found in versions if found.name == name), None)
        if version is None:
            version = client.create_model_version(name, model.artifact_location, run.run_id).version
        for key, text in tags.items():
            client.set_model_version_tag(name, str(version), key, text)
    return int(version)
