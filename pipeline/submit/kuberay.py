"""Manifests for Kubernetes: a RayJob for a training, a RayCluster to work on by hand."""

import hashlib
import re
import shlex
from importlib.metadata import version
from typing import Any

from pipeline.config.cluster import Cluster
from pipeline.config.engine import KubeRay
from pipeline.config.yaml import find_config_file, read_yaml
from pipeline.submit.job_engine import SubmittedTraining
from pipeline.submit.manifests import to_documents

GROUP, VERSION = "ray.io", "v1"
RUN_ANNOTATION = "ilsvrc/run"
OURS = {"app.kubernetes.io/name": "ilsvrc"}

Manifest = dict[str, Any]

_DOCUMENTS = "/etc/ilsvrc"
# With what all pods have, the "restricted" profile of Kubernetes' Pod Security Standards.
_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_NAME_LENGTH = 40  # KubeRay appends words, and names of services are limited to 63 characters


def mounted_documents(training: SubmittedTraining) -> dict[str, dict[str, Any]]:
    """Return the training's documents as they are here (the image has its own), without comments.

    By their paths where they are mounted: the recipe or job, the cluster, and a job's recipes.
    """
    file, cluster = training.document_file, training.cluster_file
    content = read_yaml(file)
    documents = {file.name: content, f"clusters/{cluster.name}": read_yaml(cluster)}
    for number, group in enumerate(content["trainings"] if training.job else ()):
        recipe = find_config_file(group["recipe"], "recipes")
        path = f"recipes/{number}/{recipe.name}"
        documents[path] = read_yaml(recipe)
        group["recipe"] = f"{_DOCUMENTS}/{path}"
    return documents


def documents_of(training: SubmittedTraining, engine: KubeRay) -> Manifest:
    """Return the ConfigMap of a training's documents."""
    documents = mounted_documents(training).values()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(object_name(training), engine, training.run),
        "data": {_key(number): to_documents([one]) for number, one in enumerate(documents)},
    }


def _key(number: int) -> str:
    return f"document-{number}"


def ray_job(training: SubmittedTraining, engine: KubeRay) -> Manifest:
    """Return a Ray cluster for the time of one training, which is started again if it fails."""
    name, cluster = object_name(training), training.cluster
    paths = list(mounted_documents(training))
    arguments = training.arguments(*(f"{_DOCUMENTS}/{path}" for path in paths[:2]))
    items = [{"key": _key(number), "path": path} for number, path in enumerate(paths)]
    documents = {"name": "documents", "configMap": {"name": name, "items": items}}
    spec = _cluster_spec(cluster, engine)
    head = spec["headGroupSpec"]["template"]["spec"]
    head["volumes"] = [*head["volumes"], documents]
    mounts = head["containers"][0]["volumeMounts"]
    mounts += [{"name": "documents", "mountPath": _DOCUMENTS, "readOnly": True}]
    metadata = _metadata(name, engine, training.run)
    kueue = {
        "kueue.x-k8s.io/queue-name": engine.queue,
        "kueue.x-k8s.io/priority-class": engine.priority,
    }
    metadata["labels"] |= {key: value for key, value in kueue.items() if value}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": shlex.join(["python", "-m", "pipeline", *arguments]),
            "runtimeEnvYAML": f"env_vars: {{RAY_JOB_STOP_WAIT_TIME_S: '{engine.stop_seconds}'}}\n",
            "submitterPodTemplate": _submitter(engine),
            "backoffLimit": engine.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": engine.keep_seconds,
            "rayClusterSpec": spec,
        },
    }


def ray_cluster(name: str, cluster: Cluster, engine: KubeRay) -> Manifest:
    """Return a Ray cluster that stays until it is deleted."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayCluster",
        "metadata": _metadata(name, engine),
        "spec": _cluster_spec(cluster, engine),
    }


def object_name(training: SubmittedTraining) -> str:
    """Return a Kubernetes name for the run: small letters, a letter first, digits, `-`.

    A digest distinguishes names that are alike when cut.
    """
    digest = hashlib.sha256(training.run.encode()).hexdigest()[:8]
    words = re.sub(r"[^a-z0-9]+", "-", training.run.lower()).lstrip("-0123456789")
    return f"{words[: _NAME_LENGTH - len(digest) - 1].rstrip('-') or 'run'}-{digest}"


def _metadata(name: str, engine: KubeRay, run: str | None = None) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": engine.namespace, "labels": dict(OURS)}
    if run:
        metadata["annotations"] = {RUN_ANNOTATION: run}
    return metadata


def _cluster_spec(cluster: Cluster, engine: KubeRay) -> Manifest:
    workers = cluster.workers
    per_node = engine.workers_per_node
    resources: dict[str, int | str] = {"cpu": workers.cpus * per_node, "memory": engine.memory}
    if workers.device == "gpu":
        resources["nvidia.com/gpu"] = per_node
    head: dict[str, int | str] = {"cpu": engine.head.cpus, "memory": engine.head.memory}
    autoscaler = {"securityContext": dict(_SECURITY)}
    elastic = {"enableInTreeAutoscaling": True, "autoscalerOptions": autoscaler}
    return {
        **(elastic if workers.is_elastic else {}),
        "rayVersion": version("ray"),  # the image's as well
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            # Keeps workers off the driver's node.
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
            "template": _pod("ray-head", head, engine),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": workers.fewest // per_node,
                "minReplicas": workers.fewest // per_node,
                "maxReplicas": workers.most // per_node,
                "rayStartParams": {},
                "template": _pod("ray-worker", resources, engine),
            }
        ],
    }


def _pod(container: str, resources: dict[str, int | str], engine: KubeRay) -> Manifest:
    # For NCCL and loaders; a container has 64 MB of shared memory otherwise.
    shared = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    claims = [
        {"name": one.claim, "persistentVolumeClaim": {"claimName": one.claim}}
        for one in engine.volumes
    ]
    quantities = {key: str(value) for key, value in resources.items()}
    spec: Manifest = {
        "containers": [
            {
                "name": container,
                "image": engine.image,
                "resources": {"requests": quantities, "limits": quantities},
                "securityContext": dict(_SECURITY),
                "volumeMounts": [
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                    *({"name": one.claim, "mountPath": one.path} for one in engine.volumes),
                ],
            }
        ],
        "volumes": [shared, *claims],
    }
    main = spec["containers"][0]
    if engine.environment:
        main["env"] = [{"name": key, "value": text} for key, text in engine.environment.items()]
    if engine.secrets:
        main["envFrom"] = [{"secretRef": {"name": name}} for name in engine.secrets]
    if engine.node_selector:
        spec["nodeSelector"] = dict(engine.node_selector)
    if engine.tolerations:
        spec["tolerations"] = [{"key": key, "operator": "Exists"} for key in engine.tolerations]
    return {"metadata": {"labels": dict(OURS)}, "spec": {**spec, **_of_all_pods(engine)}}


def _submitter(engine: KubeRay) -> Manifest:
    """Return the pod that hands the job to Ray and shows its log: KubeRay's own, made safe."""
    quantities = {"cpu": "500m", "memory": "1Gi"}
    container = {
        "name": "ray-job-submitter",
        "image": engine.image,
        "resources": {"requests": quantities, "limits": quantities},
        "securityContext": dict(_SECURITY),
    }
    return {
        "metadata": {"labels": dict(OURS)},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            **_of_all_pods(engine),
        },
    }


def _of_all_pods(engine: KubeRay) -> Manifest:
    spec: Manifest = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    }
    if engine.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": engine.image_pull_secret}]
    if engine.service_account:
        spec["serviceAccountName"] = engine.service_account
    if engine.priority_class:
        spec["priorityClassName"] = engine.priority_class
    return spec
