"""The local disk of a soak: small, and full at times."""

import os
import pathlib
import subprocess

BYTES = 160 << 20


class Disk:
    """A tmpfs(5) of its own, where there is a right to mount one; else a directory, which never gets full."""

    def __init__(self, directory):
        self.root = directory / "disk"
        self.root.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={BYTES},mode=0755", "dssefs-soak", str(self.root)]
        self.is_bounded = subprocess.run(mount, stderr=subprocess.DEVNULL).returncode == 0
        if not self.is_bounded:
            print("no tmpfs can be mounted here: the local disk does not get full in this run", flush=True)
        self.spill, self.ballast = self.root / "spill", self.root / "ballast"

    def fill(self, chance):
        """Leaves some hundred KiB or nothing, and says whether it could."""
        if not self.is_bounded:
            return False
        state = os.statvfs(self.root)
        length = max(0, state.f_bavail * state.f_frsize - chance.choice([0, 100 << 10, 1 << 20]))
        with open(self.ballast, "wb") as ballast:
            try:
                os.posix_fallocate(ballast.fileno(), 0, max(length, 1))
            except OSError:
                pass  # somebody else was faster
        return True

    def empty(self):
        self.ballast.unlink(missing_ok=True)

    def used(self, pid):
        """The bytes that the spill directory takes, nameless files of the process among them."""
        return blocks_below(self.spill) + nameless_blocks(pathlib.Path("/proc") / str(pid) / "fd", self.spill)

    def close(self):
        if self.is_bounded:
            subprocess.run(["umount", "--lazy", str(self.root)])


def blocks_below(directory):
    total = 0
    for where, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
            except OSError:
                pass
    return total


def nameless_blocks(descriptors, directory):
    total = 0
    for descriptor in descriptors.iterdir():
        try:
            target = os.readlink(descriptor)
            if target.startswith(str(directory)) and (target.endswith(" (deleted)") or "/#" in target):
                total += descriptor.stat().st_blocks * 512
        except OSError:
            pass
    return total
