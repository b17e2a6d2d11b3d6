"""RayJobs: valid by KubeRay's and Kubernetes' own schemas, applied whole or not at all."""

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.client import V1ConfigMap, V1PodTemplateSpec
from kubernetes_server import KubernetesServer, kuberay_problems

from pipeline.config.cluster import load_cluster
from pipeline.runtime.errors import UserError
from pipeline.submit.job_engine import SubmittedTraining
from pipeline.submit.kuberay import documents_of, object_name, ray_cluster, ray_job
from pipeline.submit.kubernetes_api import KubernetesJobs
from pipeline.submit.submit import read_trainings

EVERYTHING = [
    "engine.queue=training",
    "engine.priority=high",
    "engine.priority_class=research",
    "engine.environment={NCCL_DEBUG: INFO}",
    "engine.image_pull_secret=registry",
    "engine.service_account=trainer",
    "engine.node_selector={gpu: h100}",
    "engine.tolerations=[nvidia.com/gpu]",
    "engine.volumes=[{claim: shared, path: /shared}, {claim: fast, path: /fast}]",
    "engine.retries=0",
]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    server = KubernetesServer()
    server.start()
    server.write_kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield server
    server.stop()


def trainings(*of_cluster: str, seeds: tuple[int, ...] = ()) -> list[SubmittedTraining]:
    return read_trainings("resnet50", ["epochs=3"], "kuberay", list(of_cluster), list(seeds))


def jobs(*of_cluster: str) -> KubernetesJobs:
    cluster = load_cluster("kuberay", list(of_cluster))
    return KubernetesJobs(cluster.engine, cluster)  # type: ignore[arg-type]


@pytest.mark.parametrize("of_cluster", [[], EVERYTHING], ids=["as it comes", "every choice"])
def test_manifests_are_valid_by_kuberays_schemas(of_cluster: list[str]) -> None:
    (training,) = trainings(*of_cluster)
    engine = training.cluster.engine
    job = ray_job(training, engine)  # type: ignore[arg-type]
    by_hand = ray_cluster("by-hand", training.cluster, engine)  # type: ignore[arg-type]
    assert kuberay_problems(job) == []
    assert kuberay_problems(by_hand) == []
    for spec in (job["spec"]["rayClusterSpec"], by_hand["spec"]):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            V1PodTemplateSpec.model_validate(group["template"])
    V1PodTemplateSpec.model_validate(job["spec"]["submitterPodTemplate"])
    V1ConfigMap.model_validate(documents_of(training, engine))  # type: ignore[arg-type]


def test_the_schemas_refuse_wrong_manifests() -> None:
    (training,) = trainings()
    job = ray_job(training, training.cluster.engine)  # type: ignore[arg-type]
    misspelt = copy.deepcopy(job)
    misspelt["spec"]["ttlSecondsAfterFinish"] = 3
    assert "ttlSecondsAfterFinish" in kuberay_problems(misspelt)[0]
    deep = copy.deepcopy(job)
    deep["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["img"] = ""
    assert "img" in kuberay_problems(deep)[0]
    wrong_type = copy.deepcopy(job)
    wrong_type["spec"]["backoffLimit"] = "3"
    assert "not of type 'integer'" in kuberay_problems(wrong_type)[0]


def test_a_rayjob_has_the_recipe_and_the_clusters_settings() -> None:
    (training,) = trainings(*EVERYTHING, seeds=(7,))
    job = ray_job(training, training.cluster.engine)  # type: ignore[arg-type]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    spec = job["spec"]
    assert "--set epochs=3" in spec["entrypoint"]
    assert f"--set seed=7 --run {training.run}" in spec["entrypoint"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert group["replicas"] == 1
    assert worker["resources"]["limits"] == {
        "cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8",
    }  # fmt: skip
    assert {"secretRef": {"name": "ilsvrc"}} in worker["envFrom"]
    documents = documents_of(training, training.cluster.engine)["data"]  # type: ignore[arg-type]
    assert yaml.safe_load(documents["document-0"])["network"]["name"] == "resnet50"


def test_pods_meet_the_restricted_security_standard() -> None:
    elastic = "workers={min: 8, max: 32, device: gpu, cpus: 8, ray_address: auto}"
    batch = "batch={global_batch_size: 1024, micro_batch_size: 32}"
    (training,) = read_trainings("resnet50", [batch], "kuberay", [*EVERYTHING, elastic], [])
    spec = ray_job(training, training.cluster.engine)["spec"]  # type: ignore[arg-type]
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [spec["submitterPodTemplate"], *(group["template"] for group in groups)]
    contexts = [cluster["autoscalerOptions"]["securityContext"]]
    for pod in (template["spec"] for template in pods):
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert pod["priorityClassName"] == "research"
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        contexts += [container["securityContext"] for container in pod["containers"]]
    assert len(contexts) == 4
    for context in contexts:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("resnet50_v1_5-1a2b3c4d", "resnet50-v1-5-1a2b3c4d"),
        ("Café-7", "caf-7"),
        ("3_7", "run"),
        ("resnet50-1a2b3c4d-from-" + "x" * 80, "resnet50-1a2b3c4d-from-xxxxxxxx"),
        ("resnet50-1a2b3c4d-from-seven.", "resnet50-1a2b3c4d-from-seven"),
    ],
)
def test_object_names_are_valid_in_kubernetes(run: str, words: str) -> None:
    (training,) = trainings()
    name = object_name(dataclasses.replace(training, run=run))
    assert re.fullmatch(rf"{words}-[0-9a-f]{{8}}", name)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)  # a label of DNS, RFC 1035
    assert len(name) <= 40


def test_seeds_that_start_from_the_same_weights_have_different_names() -> None:
    start = "/shared/pretrainedonsomethingquitedifferent.safetensors"
    found = read_trainings("resnet50", [], "kuberay", [], [0, 1], start)
    assert len({object_name(training) for training in found}) == 2


def test_submit_makes_a_rayjob_that_owns_its_configmap(server: KubernetesServer) -> None:
    submitted = jobs().submit(trainings(seeds=(0, 1)), "ilsvrc submit …")
    assert set(server.of_kind("rayjobs")) == {job.id for job in submitted}
    assert set(server.of_kind("configmaps")) == {job.id for job in submitted}
    assert [(job.id, job.state) for job in jobs().jobs()] == [
        (job.id, "waiting") for job in reversed(submitted)
    ]
    assert jobs().stop(submitted[0]) == "it was waiting, and is deleted"
    assert set(server.of_kind("configmaps")) == {submitted[1].id}


@pytest.mark.parametrize("plural", ["rayjobs", "configmaps"])
def test_a_failed_submit_leaves_no_objects(server: KubernetesServer, plural: str) -> None:
    server.refused.add(plural)
    with pytest.raises(UserError, match=rf"forbids it: {plural} is forbidden.*engine.namespace"):
        jobs().submit(trainings(seeds=(0, 1)), "")
    assert not server.of_kind("rayjobs")
    assert not server.of_kind("configmaps")


def test_when_the_second_job_fails_the_first_is_deleted(server: KubernetesServer) -> None:
    first, second = trainings(seeds=(0, 1))
    server.of_kind("configmaps")[object_name(second)] = {"metadata": {}}
    with pytest.raises(UserError, match="already exists"):
        jobs().submit([first, second], "")
    assert not server.of_kind("rayjobs")
    assert set(server.of_kind("configmaps")) == {object_name(second)}


def test_a_finished_job_is_replaced_and_a_running_one_is_not(server: KubernetesServer) -> None:
    (submitted,) = jobs().submit(trainings(), "")
    with pytest.raises(UserError, match=f"ilsvrc jobs stop {submitted.id}"):
        jobs().submit(trainings(), "")
    server.of_kind("rayjobs")[submitted.id]["status"] = {
        "jobDeploymentStatus": "Complete", "jobStatus": "STOPPED",
    }  # fmt: skip
    jobs().submit(trainings(), "")
    assert "status" not in server.of_kind("rayjobs")[submitted.id]


def test_a_cluster_to_work_on_by_hand_is_created_and_deleted(server: KubernetesServer) -> None:
    assert "port-forward -n default service/ilsvrc-head-svc 8265" in jobs().start_cluster()
    (manifest,) = yaml.safe_load_all(jobs().render_cluster())
    assert server.of_kind("rayclusters")["ilsvrc"]["spec"] == manifest["spec"]
    with pytest.raises(UserError, match="already exists"):
        jobs().start_cluster()
    jobs().delete_cluster()
    assert not server.of_kind("rayclusters")


def test_an_elastic_training_lets_kuberay_change_the_number_of_nodes() -> None:
    elastic = "workers={min: 8, max: 32, device: gpu, cpus: 8, ray_address: auto}"
    batch = "batch={global_batch_size: 1024, micro_batch_size: 32}"
    (training,) = read_trainings("resnet50", [batch], "kuberay", [elastic], [])
    job = ray_job(training, training.cluster.engine)  # type: ignore[arg-type]
    assert kuberay_problems(job) == []
    spec = job["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    assert spec["enableInTreeAutoscaling"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (1, 1, 4)


STATES = {
    "waiting": {"jobDeploymentStatus": "Initializing"},
    "running": {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
    "finished": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    "stopped": {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"},
    "failed": {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "message": "exit 1"},
}


@pytest.mark.parametrize("state", STATES)
def test_kuberays_states_are_translated(server: KubernetesServer, state: str) -> None:
    (submitted,) = jobs().submit(trainings(), "")
    server.of_kind("rayjobs")[submitted.id]["status"] = STATES[state]
    (found,) = jobs().jobs()
    assert (found.state, found.run) == (state, submitted.run)
    assert found.reason == STATES[state].get("message", "")


def test_an_image_that_cant_be_pulled_is_given_as_the_reason(server: KubernetesServer) -> None:
    (submitted,) = jobs().submit(trainings(), "")
    server.of_kind("rayjobs")[submitted.id]["status"] = {
        "jobDeploymentStatus": "Initializing", "rayClusterName": "its-ray",
    }  # fmt: skip
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image ilsvrc:latest"}
    container = {
        "name": "ray-head", "image": "ilsvrc:latest", "imageID": "", "ready": False,
        "restartCount": 0, "state": {"waiting": waiting},
    }  # fmt: skip
    server.of_kind("pods")["its-ray-head"] = {
        "metadata": {"name": "its-ray-head", "labels": {"ray.io/cluster": "its-ray"}},
        "status": {"containerStatuses": [container]},
    }
    (found,) = jobs().jobs()
    assert found.reason == "ImagePullBackOff: Back-off pulling image ilsvrc:latest"


def test_logs_are_those_of_the_submitting_pod(server: KubernetesServer) -> None:
    (submitted,) = jobs().submit(trainings(), "")
    with pytest.raises(UserError, match="has printed nothing"):
        list(jobs().logs(submitted, follow=False))
    server.of_kind("pods")["submitter"] = {
        "metadata": {"name": "submitter", "labels": {"job-name": submitted.id}}
    }
    server.logs["submitter"] = "epoch 1/3 …\n"
    assert "".join(jobs().logs(submitted, follow=True)) == "epoch 1/3 …\n"


def unknown_user(server: KubernetesServer, folder: Path) -> None:
    server.write_kubeconfig(folder / "kubeconfig", token="of yesterday")


def wrong_address(server: KubernetesServer, folder: Path) -> None:
    document = yaml.safe_load((folder / "kubeconfig").read_text())
    document["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (folder / "kubeconfig").write_text(yaml.safe_dump(document))


def no_kubeconfig(server: KubernetesServer, folder: Path) -> None:
    (folder / "kubeconfig").unlink()


def no_operator(server: KubernetesServer, folder: Path) -> None:
    server.unknown.add("rayjobs")


MISTAKES: dict[str, tuple[Callable[[KubernetesServer, Path], None], str]] = {
    "old credentials": (unknown_user, "doesn't know this user.*renew the credentials"),
    "a wrong address": (wrong_address, "no Kubernetes answers at http://127.0.0.1:9.*context"),
    "no kubeconfig": (no_kubeconfig, "no way to Kubernetes.*set KUBECONFIG"),
    "no operator": (no_operator, "knows no RayJob; have the KubeRay operator installed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named_with_its_remedy(
    server: KubernetesServer, tmp_path: Path, mistake: str
) -> None:
    make, message = MISTAKES[mistake]
    make(server, tmp_path)
    with pytest.raises(UserError, match=message):
        jobs().submit(trainings(), "")
    with pytest.raises(UserError, match=message):
        jobs().jobs()


def test_an_unknown_context_is_named(server: KubernetesServer) -> None:
    with pytest.raises(UserError, match=r"no way to Kubernetes: .*nowhere.*engine\.context"):
        jobs("engine.context=nowhere").jobs()
