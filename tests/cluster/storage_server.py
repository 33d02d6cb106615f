"""A server of the S3 API on loopback, moto's, that notes every request and can be told to stop in the middle."""

import logging
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

BUCKET = "bakeoff"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/nowhere",  # whatever this machine's user has
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",  # a server that is down is to be found out at once
}


@dataclass(frozen=True)
class Request:
    method: str
    path: str


class StorageServer:
    """What it stores lives as long as this process, through `stop` and `start`."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self.requests: list[Request] = []
        self.held = threading.Event()
        self._released = threading.Event()
        self._left = math.inf  # so many uploads are still to be taken
        self._taking = 0
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._port = 0
        self.start()
        self.client().create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        handler = MotoRequestHandler
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=handler)
        self._port = self._server.server_port  # a free one, and the same again after a stop
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.address)

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What is stored, by its name without the prefix."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        names = [one["Key"] for page in pages for one in page.get("Contents", [])]
        return {name.removeprefix(prefix): client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}

    def hold_after(self, uploads: int) -> None:
        """Take so many uploads, then set `held`; let others hang, until `release`, which refuses them."""
        self._left = uploads
        self.held.clear()
        self._released.clear()

    def release(self) -> None:
        self._left = math.inf
        self._released.set()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        upload = method == "PUT" and path.count("/") > 1
        if upload and not self._takes():
            self._released.wait(180)
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        self.requests.append(Request(method, path))
        try:
            return [b"".join(self._moto(environ, start_response))]
        finally:
            if upload:
                self._took()

    def _takes(self) -> bool:
        with self._lock:
            taken = self._left > 0
            self._left -= taken
            self._taking += taken
        return taken

    def _took(self) -> None:
        with self._lock:
            self._taking -= 1
            if self._left == self._taking == 0:
                self.held.set()
