"""One program of a soak: works below a directory of its own on the mount, and knows what must be found there.

Acknowledged is what returned 0 to the end: for a change of content its close(2), for sqlite its COMMIT, for anything else the call itself.
When the daemon is killed in the middle of a deed, the directory must be as before it or as after it (a rename of a file: also with both
names). A deed that failed while the daemon lived, because of a fault, leaves its file open to doubt: it is removed, and until that has
succeeded its content is not compared.
"""

import errno
import io
import os
import pathlib
import random
import sqlite3
import stat
import tarfile
import time
import zlib
from typing import NamedTuple

GONE = object()  # in the place of content
ANY = object()  # content that is not compared
DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV}
FILES_MAX = 24
LARGE = [21 << 20, 21 << 20, 21 << 20, 40 << 20, 80 << 20]  # streamed
MODES = [0o600, 0o640, 0o644, 0o755]
REPAIR_SECONDS = 180


class File(NamedTuple):
    """What is found of a file: its content, and what programs set beside it."""

    content: bytes
    mode: int = 0o644
    colour: bytes = b""  # user.colour


class Dead(Exception):
    """The daemon is gone."""


class Worker:
    def __init__(self, number, seed, stop):
        self.name, self.chance, self.stop = f"w{number}", random.Random(f"{seed}/{number}"), stop
        self.world = {}  # path below the own directory -> File; of directories None
        self.outcomes = [{}]  # what the deed under way may have changed
        self.loose = {}  # names in doubt -> what may be there
        self.rows, self.tried_rows, self.next_row = set(), set(), 0
        self.deeds, self.bytes, self.errors, self.problems = 0, 0, {}, []
        self.made = 0

    # -- the main process asks for these

    def work(self, mount):
        self.root = pathlib.Path(mount) / self.name
        deeds = [self.create] * 6 + [self.append] * 4 + [self.patch] * 4 + [self.truncate] * 2 + [self.move] * 4
        deeds += [self.remove] * 3 + [self.read] * 6 + [self.sqlite, self.chmod, self.paint] * 2
        deeds += [self.move_directory, self.make_directory, self.untar, self.large]
        try:
            self.repair()
            while not self.stop.is_set():
                self.chance.choice(deeds)()
                self.deeds += 1
        except Dead:
            pass
        return self.told()

    def verify(self, mount, settled):
        """Compares; `settled`: after an orderly end, when nothing may be in doubt but what failed."""
        self.root = pathlib.Path(mount) / self.name
        found = self.look()
        for changes in self.outcomes:
            wanted = merged(self.world, changes)
            if self.fits(wanted, found):
                break
        else:
            for changes in self.outcomes:
                self.problems.append(f"{self.name}: {self.difference(merged(self.world, changes), found)}")
        if settled and len(self.outcomes) > 1:
            self.problems.append(f"{self.name}: a deed was under way at an orderly end")
        self.world = {name: content for name, content in found.items() if name not in self.loose}
        self.loose = {name: [ANY, GONE] for name in found if name in self.loose}
        self.outcomes = [{}]
        self.verify_rows()
        return self.told()

    def told(self):
        in_doubt = {f"{self.name}/{name}" for names in (self.loose, *self.outcomes) for name in names}
        told = self.deeds, self.bytes, self.errors, self.problems, in_doubt
        self.deeds, self.bytes, self.errors, self.problems = 0, 0, {}, []
        return told

    # -- deeds

    def create(self):
        name = self.new_name() if len(self.files()) < FILES_MAX and self.chance.random() < 0.7 else self.some_file() or self.new_name()
        self.write(name, self.noise(self.chance.choice([0, 100, 5_000, 70_000, 400_000])))

    def large(self):
        self.write("large", self.noise(self.chance.choice(LARGE)))

    def write(self, name, content):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self.change(name, content, flags, lambda fd: self.write_all(fd, content))

    def append(self):
        if name := self.some_file():
            more = self.noise(self.chance.randrange(1, 60_000))
            content = self.world[name].content + more
            self.change(name, content, os.O_WRONLY | os.O_APPEND, lambda fd: self.write_all(fd, more))

    def patch(self):
        name = self.some_file()
        if not name or not self.world[name].content:
            return
        old = self.world[name].content
        at = self.chance.randrange(len(old))
        piece = self.noise(self.chance.randrange(1, 30_000))
        content = old[:at] + piece + old[at + len(piece) :]
        self.change(name, content, os.O_RDWR, lambda fd: self.pwrite_all(fd, piece, at))

    def truncate(self):
        if name := self.some_file():
            old, size = self.world[name].content, self.chance.randrange(100_000)
            self.change(name, old[:size] + bytes(max(0, size - len(old))), os.O_WRONLY, lambda fd: os.ftruncate(fd, size))

    def change(self, name, content, flags, act):
        self.outcomes = [{}, {name: self.world.get(name, File(b""))._replace(content=content)}]
        try:
            fd = os.open(self.root / name, flags, 0o644)
            try:
                act(fd)
                if self.chance.random() < 0.2:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return self.failed(error, {name: [ANY, GONE]})
        self.done()

    def chmod(self):
        if name := self.some_file():
            mode = self.chance.choice(MODES)
            self.outcomes = [{}, {name: self.world[name]._replace(mode=mode)}]
            self.call(lambda: os.chmod(self.root / name, mode), {name: [ANY, GONE]})

    def paint(self):
        if name := self.some_file():
            colour = self.noise(self.chance.randrange(1, 40))
            self.outcomes = [{}, {name: self.world[name]._replace(colour=colour)}]
            self.call(lambda: os.setxattr(self.root / name, "user.colour", colour), {name: [ANY, GONE]})

    def move(self):
        source, target = self.some_file(), self.chance.choice([self.some_file(), self.new_name()])
        if not source or not target or source == target:
            return
        moved = self.world[source]
        self.outcomes = [{}, {target: moved}, {source: GONE, target: moved}]
        self.call(lambda: os.rename(self.root / source, self.root / target), {source: [ANY, GONE], target: [ANY, GONE]})

    def remove(self):
        if name := self.some_file():
            self.outcomes = [{}, {name: GONE}]
            self.call(lambda: os.unlink(self.root / name), {name: [ANY, GONE]})

    def make_directory(self):
        if len(self.directories()) < 4:
            name = self.new_name("d")
            self.outcomes = [{}, {name: None}]
            self.call(lambda: os.mkdir(self.root / name), {name: [ANY, GONE]})

    def move_directory(self):
        if not self.directories():
            return
        source, target = self.chance.choice(self.directories()), self.new_name("d")
        inside = [name for name in self.world if name == source or name.startswith(source + "/")]
        moved = {target + name[len(source) :]: self.world[name] for name in inside}
        self.outcomes = [{}, {**{name: GONE for name in inside}, **moved}]
        self.call(lambda: os.rename(self.root / source, self.root / target), {name: [ANY, GONE] for name in [*inside, *moved]})

    def untar(self):
        top = self.new_name("t")
        files = {f"{top}/{n}": self.noise(self.chance.randrange(20_000)) for n in range(12)}
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), 1_600_000_000
                tar.addfile(member, io.BytesIO(content))
        archive.seek(0)
        # Each of them whole or not at all, whenever it ends.
        self.loose = {**self.loose, top: [None, GONE], **{name: [File(content), GONE] for name, content in files.items()}}
        try:
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(self.root, filter="data")
        except OSError as error:
            return self.failed(error, {name: [ANY, GONE] for name in [*files, top]})
        self.alive()
        for name in [*files, top]:
            del self.loose[name]
        self.world.update({name: File(content) for name, content in files.items()}, **{top: None})
        self.bytes += sum(map(len, files.values()))
        if len(self.directories()) > 6:
            self.remove_tree(top)

    def remove_tree(self, top):
        for name in [name for name in self.world if name.startswith(top + "/")]:
            self.outcomes = [{}, {name: GONE}]
            self.call(lambda: os.unlink(self.root / name), {name: [ANY, GONE]})
        self.outcomes = [{}, {top: GONE}]
        self.call(lambda: os.rmdir(self.root / top), {top: [ANY, GONE]})

    def read(self):
        if name := self.some_file():
            try:
                content = (self.root / name).read_bytes()
            except OSError as error:
                return self.failed(error, {})
            self.alive()
            if content != (wanted := self.world[name]).content:
                self.problems.append(f"{self.name}/{name}: read {told_of(wanted._replace(content=content))} instead of {told_of(wanted)}")

    def sqlite(self):
        row = self.next_row
        self.next_row += 1
        self.tried_rows.add(row)
        try:
            base = sqlite3.connect(self.root / "db", timeout=5, isolation_level=None)
            try:
                base.execute("create table if not exists rows (n integer primary key, filler blob)")
                base.execute("insert into rows values (?, ?)", (row, self.noise(3_000)))
            finally:
                base.close()
        except sqlite3.Error as error:
            self.alive()
            self.count(f"sqlite: {error}")
            return
        self.alive()
        self.rows.add(row)

    # -- what becomes of them

    def call(self, act, doubt):
        try:
            act()
        except OSError as error:
            return self.failed(error, doubt)
        self.done()

    def done(self):
        self.alive()
        self.world = merged(self.world, self.outcomes[-1])
        self.outcomes = [{}]

    def alive(self):
        try:
            os.getxattr(self.root.parent, "user.dsse.mount.pid")
        except OSError:
            raise Dead from None

    def failed(self, error, doubt):
        if error.errno in DEAD:
            raise Dead
        self.alive()
        self.count(errno.errorcode.get(error.errno, str(error.errno)))
        for name in doubt:
            self.world.pop(name, None)
        self.loose.update(doubt)
        self.outcomes = [{}]
        self.repair()

    def repair(self):
        """Removes what is in doubt, until that is done."""
        end = time.monotonic() + REPAIR_SECONDS
        while self.loose:
            for name in sorted(self.loose, reverse=True):
                path = self.root / name
                try:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
                    # Not that the answer was that of an old listing.
                    path.lstat()
                except FileNotFoundError:
                    self.alive()
                    del self.loose[name]
                except OSError as error:
                    if error.errno in DEAD:
                        raise Dead from None
                    self.alive()
                    self.count(f"repair {errno.errorcode.get(error.errno)}")
                    time.sleep(0.2)
            if time.monotonic() > end:
                self.problems.append(f"{self.name}: cannot be removed within {REPAIR_SECONDS} s: {sorted(self.loose)}")
                return

    def verify_rows(self):
        if not self.tried_rows or not (self.root / "db").exists():
            if self.rows:
                self.problems.append(f"{self.name}/db: is gone with {len(self.rows)} rows")
            return
        try:
            base = sqlite3.connect(self.root / "db", timeout=5, isolation_level=None)
            whole = base.execute("pragma integrity_check").fetchone()[0]
            has_table = base.execute("select count(*) from sqlite_master").fetchone()[0]
            found = {row for (row,) in base.execute("select n from rows")} if has_table else set()
            base.close()
        except sqlite3.Error as error:
            self.problems.append(f"{self.name}/db: {error}")
            return
        if whole != "ok" or not self.rows <= found <= self.tried_rows:
            self.problems.append(f"{self.name}/db: {whole}; missing {self.rows - found}, unknown {found - self.tried_rows}")
        self.rows, self.tried_rows = set(found), set(found)

    # -- looking

    def look(self):
        found = {}
        for directory, names, files in os.walk(self.root):
            below = pathlib.Path(directory).relative_to(self.root)
            for name in names:
                found[str(below / name)] = None
            for name in files:
                if not (name == "db" or name.startswith("db-")):
                    found[str(below / name)] = file_at(pathlib.Path(directory) / name)
        return found

    def fits(self, wanted, found):
        loosely = all(any(may is ANY or may == found.get(name, GONE) for may in self.loose[name]) for name in self.loose)
        strictly = {name: content for name, content in found.items() if name not in self.loose}
        return loosely and strictly == {name: content for name, content in wanted.items() if name not in self.loose}

    def difference(self, wanted, found):
        names = sorted(name for name in {*wanted, *found} if wanted.get(name, GONE) != found.get(name, GONE))
        return "; ".join(f"{name}: expected {told_of(wanted.get(name, GONE))}, found {told_of(found.get(name, GONE))}" for name in names)

    def files(self):
        return [name for name, node in self.world.items() if node is not None]

    def directories(self):
        return [name for name, node in self.world.items() if node is None]

    def some_file(self):
        return self.chance.choice(self.files()) if self.files() else None

    def new_name(self, kind="f"):
        self.made += 1
        inside = self.chance.choice([""] + [name + "/" for name in self.directories()]) if kind == "f" else ""
        return f"{inside}{kind}{self.made}"

    def write_all(self, fd, content):
        for at in range(0, len(content), 1 << 20):
            rest = memoryview(content)[at : at + (1 << 20)]
            while rest:
                written = os.write(fd, rest)
                self.bytes += written
                rest = rest[written:]

    def pwrite_all(self, fd, content, at):
        while content:
            written = os.pwrite(fd, content, at)
            self.bytes += written
            content, at = content[written:], at + written

    def noise(self, length):
        return self.chance.randbytes(length)

    def count(self, what):
        self.errors[what] = self.errors.get(what, 0) + 1


def merged(world, changes):
    return {name: node for name, node in {**world, **changes}.items() if node is not GONE}


def told_of(node):
    if node is GONE or node is None:
        return "nothing" if node is GONE else "a directory"
    return f"{len(node.content)} bytes ({zlib.crc32(node.content):08x}), mode {node.mode:o}, colour {node.colour.hex() or None}"


def file_at(path):
    content, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    try:
        return File(content, mode, os.getxattr(path, "user.colour"))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return File(content, mode)
