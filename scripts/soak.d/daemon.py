"""The daemon of a soak: mounts of different settings on one spill directory, and `dssefs recover` between them."""

import json
import os
import pathlib
import subprocess
import threading
import time

from endpoint import BUCKET

MOUNT_SECONDS, END_SECONDS, RECOVER_SECONDS = 120, 300, 120


class Settings:
    """How one life is mounted."""

    def __init__(self, chance, may_forget):
        """`may_forget`: nothing is left of earlier lives, so that keys in memory, whose mounts look at no journal, will do."""
        self.keys = "memory" if may_forget and chance.random() < 0.4 else "kms"
        self.commit = "close" if self.keys == "memory" else chance.choice(["background", "background", "close"])
        self.memory = chance.choice(["32MiB", "96MiB"])
        self.renewed = self.keys == "kms" and chance.random() < 0.4

    def options(self):
        options = ["--memory", self.memory, "--spill", "2GiB", "--spill-keys", self.keys, "--commit", self.commit]
        options += ["--attempt-timeout", "3s"]
        return options + (["--spill-key-lifetime", "2s"] if self.renewed else [])

    def __str__(self):
        return " ".join(self.options())


class Place:
    """What all lives share: program, store, mount point, local disk and log."""

    def __init__(self, program, endpoint, directory, disk):
        self.program, self.endpoint, self.disk = program, endpoint, disk
        self.point, self.log, self.said = directory / "mnt", directory / "mount.log", directory / "mount.out"
        self.point.mkdir()
        self.log.touch()
        self.peaks = {"memory": {}, "disk": 0}

    def start(self, arguments):
        with open(self.said, "w") as out, open(self.log, "a") as log:
            return subprocess.Popen([self.program, *arguments], stdout=out, stderr=log, env=self.endpoint.environment())

    def tail(self):
        return "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-15:])

    def recover(self, killed_after):
        """`dssefs recover DIR upload`; the code that it ended with, None when it was killed after so many seconds, and the keys that it
        kept. (What it sent stays in a list while another file of the same session is kept.)"""
        before = self.log.stat().st_size
        status = self.upload(killed_after)
        with open(self.log, errors="replace") as log:
            log.seek(before)
            return status, {line.split(": ")[1] for line in log if line.startswith("kept: ")}

    def upload(self, killed_after):
        process = self.start(["recover", *self.endpoint.options(), str(self.disk.spill), "upload"])
        try:
            return process.wait(RECOVER_SECONDS if killed_after is None else killed_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if killed_after is None:
                raise SystemExit(f"FAILED: dssefs recover did not end within {RECOVER_SECONDS} s:\n" + self.tail()) from None
            return None

    def listed(self):
        """What `dssefs recover DIR list` names."""
        return json.loads(self.run("list", "--json"))

    def discard(self):
        self.run("discard")

    def run(self, *action):
        command = [self.program, "recover", *self.endpoint.options(), str(self.disk.spill), *action]
        return subprocess.run(command, env=self.endpoint.environment(), capture_output=True, timeout=RECOVER_SECONDS, check=True).stdout

    def detach(self):
        is_mounted = subprocess.run(["mountpoint", "-q", str(self.point)]).returncode == 0
        if is_mounted or not os.access(self.point, os.R_OK):
            subprocess.run(["fusermount3", "-uz", str(self.point)], stderr=subprocess.DEVNULL, timeout=30)


class Daemon:
    """A mount of one life, and what it took of memory and disk."""

    def __init__(self, place, settings):
        self.place, self.settings = place, settings
        command = ["mount", BUCKET, str(place.point), "--foreground", *place.endpoint.options(), "--kms-key-id", place.endpoint.key]
        self.process = place.start([*command, "--spill-dir", str(place.disk.spill), *settings.options()])
        self.watching = threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def answers(self):
        return "is mounted at" in self.place.said.read_text()

    def wait(self):
        end = time.monotonic() + MOUNT_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise SystemExit(f"FAILED: no mount within {MOUNT_SECONDS} s:\n" + self.place.tail())
            time.sleep(0.05)

    def watch(self):
        while not self.watching.wait(0.5):
            self.measure()

    def measure(self):
        peaks, memory = self.place.peaks, self.settings.memory
        try:
            status = (pathlib.Path("/proc") / str(self.process.pid) / "status").read_text()
            resident = int(status.split("VmHWM:")[1].split()[0]) << 10
            peaks["memory"][memory] = max(peaks["memory"].get(memory, 0), resident)
            peaks["disk"] = max(peaks["disk"], self.place.disk.used(self.process.pid))
        except (OSError, IndexError, ValueError):
            pass  # it has ended

    def kill(self):
        self.measure()
        self.watching.set()
        self.process.kill()
        self.process.wait()
        self.place.detach()

    def end(self):
        self.watching.set()
        self.process.terminate()
        try:
            status = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit(f"FAILED: the mount did not end within {END_SECONDS} s:\n" + self.place.tail()) from None
        self.place.detach()
        return status
