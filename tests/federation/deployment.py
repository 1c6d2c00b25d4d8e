"""Flower's real processes on loopback, with TLS and registered keys, as the README starts them."""

import datetime
import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.processes import free_port, wait_for_port

SCRIPTS = Path(sys.executable).parent
PRIVATE = {"encryption_algorithm": serialization.NoEncryption()}


class Deployment:
    """A SuperLink in `folder`, whose clients and coordinator are started as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet, self.control = free_port(), free_port()
        self.certificate = make_certificates(folder)
        self.processes: list[subprocess.Popen] = []
        home = folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            "[superlink]\ndefault = 'site'\n[superlink.site]\n"
            f"address = '127.0.0.1:{self.control}'\nroot-certificates = '{self.certificate}'\n"
        )
        self.environment = os.environ | {
            "FLWR_HOME": str(home),
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",  # Flower starts its own by name
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self.superlink = self.start(
            "flower-superlink",
            f"--ssl-ca-certfile={self.certificate}",
            f"--ssl-certfile={folder / 'server.pem'}",
            f"--ssl-keyfile={folder / 'server.key'}",
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            f"--fleet-api-address=127.0.0.1:{self.fleet}",
            f"--control-api-address=127.0.0.1:{self.control}",
            "--serverappio-api-address=127.0.0.1:0",
        )
        wait_for_port(self.control, self.superlink)
        wait_for_port(self.fleet, self.superlink)

    def start(self, program: str, *arguments: str) -> subprocess.Popen:
        """A process of its own group, its output in `folder`."""
        log = (self.folder / f"{len(self.processes)}-{program}.log").open("w")
        process = subprocess.Popen(
            [str(SCRIPTS / program), *arguments],
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def client(self, number: int, model: Path, data: Path, *options: str) -> subprocess.Popen:
        """A data owner with a registered key."""
        return self.start(
            "ifedicl",
            "client",
            f"--model={model}",
            f"--data={data}",
            f"--client={number}",
            f"--superlink=127.0.0.1:{self.fleet}",
            f"--root-certificates={self.certificate}",
            f"--private-key={self.registered_key(number)}",
            *options,
        )

    def registered_key(self, number: int) -> Path:
        """A client's private key, whose public half the SuperLink knows."""
        path = make_key(self.folder / f"client-{number}")
        self.run("flwr", "supernode", "register", f"{path}.pub", "site")
        return path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself."""
        return subprocess.run(
            [str(SCRIPTS / program), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def log(self, process: subprocess.Popen) -> str:
        position = self.processes.index(process)
        (path,) = self.folder.glob(f"{position}-*.log")
        return path.read_text()

    def wait_for_log(self, process: subprocess.Popen, text: str, seconds: float = 60) -> None:
        """Until a process has said something."""
        deadline = time.monotonic() + seconds
        while text not in self.log(process):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{text!r} is not in:\n{self.log(process)}")
            time.sleep(0.2)

    def stop(self) -> None:
        for process in reversed(self.processes):
            kill(process)


@contextmanager
def deployed(folder: Path) -> Iterator[Deployment]:
    deployment = Deployment(folder)
    try:
        yield deployment
    finally:
        deployment.stop()


def kill(process: subprocess.Popen) -> None:
    """With everything it started."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
        process.wait()


def make_certificates(folder: Path) -> Path:
    """A certificate authority, and a server certificate for loopback; the authority's path."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    authority = (
        _certificate(issuer, issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    server = (
        _certificate(subject, issuer, server_key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    for name, certificate in (("ca.pem", authority), ("server.pem", server)):
        (folder / name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(server_key.private_bytes(pem, pkcs8, **PRIVATE))
    return folder / "ca.pem"


def make_key(path: Path) -> Path:
    """A key pair as `ssh-keygen -t ecdsa -b 384` writes it."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem, openssh = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(pem, openssh, **PRIVATE))
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.with_name(f"{path.name}.pub").write_bytes(public)
    return path


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
