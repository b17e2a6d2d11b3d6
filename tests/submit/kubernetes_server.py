"""A server of the few parts of Kubernetes' API that submitting uses, over real HTTP.

It checks RayJobs and RayClusters against KubeRay's published schema, with unknown keys refused, and
deletes what belongs to what was deleted. Nothing runs: tests say what became of a job.
"""

import base64
import json
import lzma
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonschema
import yaml

# KubeRay's CRDs at v1.7.0 (helm-chart/kuberay-operator/crds, Apache-2.0): the schemas of RayJob and
# RayCluster, version v1, without descriptions.
_SCHEMAS = Path(__file__).with_name("kuberay-1.7.0.json.xz")
_PATH = r"/(?:api|apis/ray\.io)/v1/namespaces/[^/]+/([^/]+)(?:/(.*))?"
_PLURALS = {"rayjobs": "RayJob", "rayclusters": "RayCluster"}

Object = dict[str, Any]


def kuberay_problems(manifest: Object) -> list[str]:
    """Return what KubeRay's schema finds wrong with a manifest."""
    schema = json.loads(lzma.decompress(_SCHEMAS.read_bytes()))[manifest["kind"]]
    problems = jsonschema.Draft7Validator(_closed(schema)).iter_errors(manifest)
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in problems]


def _closed(schema: Any) -> Any:
    """The schema, refusing keys that it doesn't know, as `kubectl` does."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or schema == {"type": "object"}
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and not is_open
    ):
        closed.setdefault("additionalProperties", False)
    return closed


@dataclass
class KubernetesServer:
    """One namespace's objects, by kind (plural) and name."""

    token: str = "right"
    objects: dict[str, dict[str, Object]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # plurals that may not be created
    unknown: set[str] = field(default_factory=set)  # plurals of which no such kind is installed
    proxied_to: str = ""  # where the service proxy leads
    proxied: list[tuple[str, str, int]] = field(default_factory=list)  # with the answer's status

    def start(self) -> None:
        server = self

        class Handler(_Handler):
            kubernetes = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def of_kind(self, plural: str) -> dict[str, Object]:
        return self.objects.setdefault(plural, {})

    def write_kubeconfig(self, path: Path, token: str | None = None) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": {"server": self.address}}],
            "users": [{"name": "tests", "user": {"token": token or self.token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        }
        path.write_text(yaml.safe_dump(document))

    def add_secret(self, name: str, **texts: str) -> None:
        data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        self.of_kind("secrets")[name] = {"metadata": {"name": name}, "data": data}


class _Handler(BaseHTTPRequestHandler):
    kubernetes: KubernetesServer

    def do_GET(self) -> None:
        self._answer_to("GET")

    def do_POST(self) -> None:
        self._answer_to("POST")

    def do_DELETE(self) -> None:
        self._answer_to("DELETE")

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer_to(self, verb: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if self.headers.get("Authorization") != f"Bearer {self.kubernetes.token}":
            self._refuse(401, "Unauthorized")
            return
        url = urlsplit(self.path)
        path = re.fullmatch(
            r"/(?:api|apis/ray\.io)/v1/namespaces/[^/]+/([^/]+)(?:/(.*))?", url.path
        )
        if not path:
            self._refuse(404, "the server could not find the requested resource")
            return
        plural, rest = path[1], unquote(path[2] or "")
        if plural in self.kubernetes.unknown:
            self._refuse(404, "the server could not find the requested resource")
        elif plural == "services":
            self._proxy(*rest.split("/proxy/", 1), body)
        elif rest.endswith("/log"):
            self._send(200, self.kubernetes.logs[rest.removesuffix("/log")].encode(), "text/plain")
        elif verb == "POST":
            self._create(plural, json.loads(body))
        elif verb == "DELETE":
            self._delete(plural, rest)
        else:
            self._read(plural, rest, parse_qs(url.query).get("labelSelector", [""])[0])

    def _create(self, plural: str, manifest: Object) -> None:
        there, name = self.kubernetes.of_kind(plural), manifest["metadata"]["name"]
        problems = kuberay_problems(manifest) if plural in _PLURALS else []
        if plural in self.kubernetes.refused:
            self._refuse(403, f'{plural} is forbidden: User "tests" cannot create {plural}')
        elif name in there:
            self._refuse(409, f'{plural} "{name}" already exists')
        elif problems:
            self._refuse(422, f"{name} is invalid: {problems[0]}")
        else:
            metadata = manifest["metadata"] | {
                "uid": f"uid-{len(there)}-{name}",
                "creationTimestamp": f"2026-01-01T00:00:{len(there):02d}Z",
            }
            there[name] = manifest | {"metadata": metadata}
            self._send_json(201, there[name])

    def _delete(self, plural: str, name: str) -> None:
        gone = self.kubernetes.of_kind(plural).pop(name, None)
        if gone is None:
            self._refuse(404, f'{plural} "{name}" not found')
            return
        for there in self.kubernetes.objects.values():
            for other, one in list(there.items()):
                owners = one["metadata"].get("ownerReferences", [])
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                    del there[other]
        self._send_json(200, {"kind": "Status", "status": "Success"})

    def _read(self, plural: str, name: str, selector: str) -> None:
        there = self.kubernetes.of_kind(plural)
        if name:
            if name in there:
                self._send_json(200, there[name])
            else:
                self._refuse(404, f'{plural} "{name}" not found')
            return
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        items = [
            one
            for one in there.values()
            if wanted.items() <= one["metadata"].get("labels", {}).items()
        ]
        self._send_json(200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})

    def _proxy(self, service: str, path: str, body: bytes) -> None:
        request = urllib.request.Request(
            f"{self.kubernetes.proxied_to}/{path}", body, method="POST"
        )
        for name, value in self.headers.items():
            if name.lower() not in ("authorization", "host", "content-length"):
                request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.kubernetes.proxied.append((service, path, answer.status))
                self._send(answer.status, answer.read(), "application/json")
        except urllib.error.HTTPError as error:
            self.kubernetes.proxied.append((service, path, error.code))
            self._send(error.code, error.read(), "text/plain")

    def _refuse(self, status: int, message: str) -> None:
        self._send_json(status, {"kind": "Status", "status": "Failure", "message": message})

    def _send_json(self, status: int, content: Object) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
