"""Trainings as RayJobs in Kubernetes, by its official client and the user's kubeconfig."""

import base64
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.config.cluster import Cluster
from pipeline.config.engine import KubeRay
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import State, SubmittedJob, SubmittedTraining
from pipeline.submit.kuberay import (
    GROUP,
    OURS,
    RUN_ANNOTATION,
    VERSION,
    Manifest,
    documents_of,
    ray_cluster,
    ray_job,
)
from pipeline.submit.manifests import to_documents

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

# KubeRay's states of the deployment, and of the job once that is complete.
_WAITING = ("", "Initializing", "Waiting", "Suspending", "Suspended", "Retrying")
_ENDS: dict[str, State] = {"SUCCEEDED": "finished", "STOPPED": "stopped"}
_SECONDS_TO_DELETE = 60.0
_BY_HAND = "ilsvrc"


class KubernetesJobs:
    """The RayJobs of one namespace that this project made."""

    def __init__(self, engine: KubeRay, cluster: Cluster) -> None:
        self._engine, self._cluster = engine, cluster

    def render(self, trainings: list[SubmittedTraining], command: str) -> str:
        manifests = [
            manifest
            for training in trainings
            for manifest in (ray_job(training, self._engine), documents_of(training, self._engine))
        ]
        return f"# {command}\n" + to_documents(manifests)

    def submit(self, trainings: list[SubmittedTraining], command: str) -> list[SubmittedJob]:
        with self._client() as api:
            kubernetes = _Objects(api, self._engine.namespace)
            for training in trainings:
                kubernetes.delete_finished(ray_job(training, self._engine))
            made: list[Manifest] = []
            try:
                for training in trainings:
                    made.append(kubernetes.create_job(ray_job(training, self._engine)))
                    kubernetes.create_documents(documents_of(training, self._engine), made[-1])
            except BaseException:
                for job in made:
                    kubernetes.delete_job(job["metadata"]["name"])
                raise
        return [
            SubmittedJob(job["metadata"]["name"], training.run, "waiting")
            for job, training in zip(made, trainings, strict=True)
        ]

    def jobs(self) -> list[SubmittedJob]:
        with self._client() as api:
            kubernetes = _Objects(api, self._engine.namespace)
            found = sorted(
                kubernetes.jobs(),
                key=lambda job: job["metadata"]["creationTimestamp"],
                reverse=True,
            )
            return [_submitted(job, kubernetes) for job in found]

    def logs(self, job: SubmittedJob, follow: bool) -> Iterator[str]:
        with self._client() as api:
            yield from _Objects(api, self._engine.namespace).logs(job.id, follow)

    def stop(self, job: SubmittedJob) -> str:
        with self._client() as api:
            kubernetes = _Objects(api, self._engine.namespace)
            if job.state == "running":
                kubernetes.stop_job(job.id)
                return f"it saves and ends within {self._engine.stop_seconds} s"
            kubernetes.delete_job(job.id)
        return f"it was {job.state}, and is deleted"

    def render_cluster(self) -> str:
        """Return the Ray cluster to work on by hand, as text."""
        return to_documents([ray_cluster(_BY_HAND, self._cluster, self._engine)])

    def start_cluster(self) -> str:
        """Start the Ray cluster to work on by hand; return how to reach it, as a sentence."""
        with self._client() as api:
            manifest = ray_cluster(_BY_HAND, self._cluster, self._engine)
            _Objects(api, self._engine.namespace).create_cluster(manifest)
        namespace = f"-n {self._engine.namespace}"
        return (
            f"kubectl port-forward {namespace} service/{_BY_HAND}-head-svc 8265 brings it to this "
            f"machine, where `--on ray` finds it; its token is in the secret {_BY_HAND}"
        )

    def delete_cluster(self) -> None:
        with self._client() as api:
            _Objects(api, self._engine.namespace).delete_cluster(_BY_HAND)

    @contextmanager
    def _client(self) -> Iterator["ApiClient"]:
        """Yield a client whose errors become a `UserError` of one line."""
        try:
            from kubernetes import config
            from kubernetes.client.exceptions import ApiException
        except ImportError:
            raise UserError(
                "engine.kind kuberay needs Kubernetes' client: pip install 'ilsvrc[kubernetes]'"
            ) from None
        from urllib3.exceptions import HTTPError

        try:
            # The client itself reads the environment only when it is imported.
            file = os.environ.get("KUBECONFIG")
            api = config.new_client_from_config(config_file=file, context=self._engine.context)
        except (config.ConfigException, OSError) as error:
            raise UserError(
                f"no way to Kubernetes: {' '.join(str(error).split())}; set KUBECONFIG to a "
                f"kubeconfig, or engine.context to one of its contexts"
            ) from None
        try:
            yield api
        except ApiException as error:
            raise UserError(_explained(error, api.configuration.host, self._engine)) from None
        except HTTPError:
            raise UserError(
                f"no Kubernetes answers at {api.configuration.host}; choose another context of the "
                f"kubeconfig by engine.context"
            ) from None
        finally:
            api.close()


class _Objects:
    """The objects of one namespace: the few requests that are needed."""

    def __init__(self, api: "ApiClient", namespace: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        api.configuration.safe_chars_for_path_param = "/:"  # for paths through the proxy
        self._core: Any = CoreV1Api(api)
        self._custom: Any = CustomObjectsApi(api)
        self._api, self._namespace = api, namespace
        self._ray_jobs = (GROUP, VERSION, namespace, "rayjobs")
        self._ray_clusters = (GROUP, VERSION, namespace, "rayclusters")

    def jobs(self) -> list[Manifest]:
        label = ",".join(f"{key}={value}" for key, value in OURS.items())
        found = self._custom.list_namespaced_custom_object(*self._ray_jobs, label_selector=label)
        items: list[Manifest] = found["items"]
        return items

    def create_job(self, manifest: Manifest) -> Manifest:
        made: Manifest = self._custom.create_namespaced_custom_object(*self._ray_jobs, manifest)
        return made

    def create_cluster(self, manifest: Manifest) -> None:
        self._custom.create_namespaced_custom_object(*self._ray_clusters, manifest)

    def delete_cluster(self, name: str) -> None:
        self._custom.delete_namespaced_custom_object(*self._ray_clusters, name)

    def create_documents(self, manifest: Manifest, job: Manifest) -> None:
        """Create what a job mounts; Kubernetes deletes it with the job."""
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        metadata = {**manifest["metadata"], "ownerReferences": [owner]}
        self._core.create_namespaced_config_map(self._namespace, {**manifest, "metadata": metadata})

    def delete_finished(self, manifest: Manifest) -> None:
        """Delete a finished job of this name; `UserError` for one that has not finished."""
        name = manifest["metadata"]["name"]
        existing = [job for job in self.jobs() if job["metadata"]["name"] == name]
        if not existing:
            return
        if _state(existing[0]) in ("waiting", "running"):
            raise UserError(f"job {name} is there already; `ilsvrc jobs stop {name}` ends it")
        self.delete_job(name)
        deadline = time.monotonic() + _SECONDS_TO_DELETE
        while any(job["metadata"]["name"] == name for job in self.jobs()):
            if time.monotonic() > deadline:
                raise UserError(f"an earlier job {name} is still being deleted; try again later")
            time.sleep(1)

    def delete_job(self, name: str) -> None:
        self._custom.delete_namespaced_custom_object(*self._ray_jobs, name)

    def stop_job(self, name: str) -> None:
        """Stop a job as `ray job stop` does, at its own Ray through Kubernetes' proxy."""
        job = self._custom.get_namespaced_custom_object(*self._ray_jobs, name)
        ray = job["status"]["rayClusterName"]
        token = self._token(ray)
        if token:
            self._api.set_default_header("x-ray-authorization", f"Bearer {token}")
        self._core.connect_post_namespaced_service_proxy_with_path(
            f"{ray}-head-svc:8265", self._namespace, f"api/jobs/{job['status']['jobId']}/stop"
        )

    def _token(self, ray: str) -> str:
        secret = self._core.read_namespaced_secret(ray, self._namespace)
        return base64.b64decode(secret.data["auth_token"]).decode()

    def logs(self, name: str, follow: bool) -> Iterator[str]:
        pods = self._core.list_namespaced_pod(self._namespace, label_selector=f"job-name={name}")
        if not pods.items:
            raise UserError(f"job {name} has printed nothing: no pod of it runs")
        stream = self._core.read_namespaced_pod_log(
            pods.items[-1].metadata.name, self._namespace, follow=follow, _preload_content=False
        )
        for chunk in stream.stream(decode_content=True):
            yield chunk.decode("utf-8", "replace")

    def why_pods_wait(self, ray: str) -> str:
        """Return why a Ray cluster's pods do not run: the image, a volume, no room."""
        pods = self._core.list_namespaced_pod(
            self._namespace, label_selector=f"ray.io/cluster={ray}"
        )
        for pod in pods.items:
            for container in pod.status.container_statuses or []:
                waiting = container.state and container.state.waiting
                if waiting and waiting.reason not in ("ContainerCreating", "PodInitializing"):
                    return f"{waiting.reason}: {waiting.message or container.image}"
            for condition in pod.status.conditions or []:
                if condition.type == "PodScheduled" and condition.status == "False":
                    return f"{condition.reason}: {condition.message}"
        return ""


def _submitted(job: Manifest, kubernetes: _Objects) -> SubmittedJob:
    metadata, status = job["metadata"], job.get("status", {})
    state = _state(job)
    reason = "" if state in ("running", "finished") else status.get("message", "")
    if state == "waiting" and status.get("rayClusterName"):
        reason = kubernetes.why_pods_wait(status["rayClusterName"]) or reason
    return SubmittedJob(
        metadata["name"], metadata["annotations"][RUN_ANNOTATION], state, " ".join(reason.split())
    )


def _state(job: Manifest) -> State:
    status = job.get("status", {})
    deployment = status.get("jobDeploymentStatus", "")
    if deployment in _WAITING:
        return "waiting"
    if deployment == "Running":
        return "running"
    return _ENDS.get(status.get("jobStatus", ""), "failed")


def _explained(error: Any, host: str, engine: KubeRay) -> str:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):  # not Kubernetes' own, but of a service behind it
        message = " ".join(str(error.body or error.reason).split())[:300]
    match error.status:
        case 401:
            return (
                f"Kubernetes at {host} doesn't know this user: {message}; renew the credentials of "
                f"the kubeconfig"
            )
        case 403:
            return (
                f"Kubernetes at {host} forbids it: {message}; ask for the right, or set "
                f"engine.namespace, now {engine.namespace}"
            )
        case 404 if "could not find the requested resource" in message:
            return (
                f"Kubernetes at {host} knows no RayJob; have the KubeRay operator installed "
                "(Helm chart kuberay-operator)"
            )
        case _:
            return f"Kubernetes at {host} says: {message}"
