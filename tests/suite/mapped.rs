//! O_DIRECT and shared mappings, alone and mixed with read(2) and write(2). The programs are Python, which maps files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{MINUTE, Mount, noise, scenario, seed};

const MIB: usize = 1 << 20;

fn python(script: &str, arguments: &[&str], path: &Path) {
    let output = Command::new("python3").arg("-c").arg(script).arg(path).args(arguments).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn dd_with_o_direct_copies_aligned_and_unaligned() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        let content = noise(1, 5 * MIB + 777);
        endpoint.put("source", &content);
        let mount = Mount::of(&endpoint);
        for block in ["1M", "4096", "1000"] {
            let (from, to) = (mount.join("source"), mount.join(&format!("copy{block}")));
            let dd = Command::new("dd")
                .args(["iflag=direct", "oflag=direct", &format!("bs={block}")])
                .arg(format!("if={}", from.display()))
                .arg(format!("of={}", to.display()))
                .output()
                .expect("dd");
            assert!(dd.status.success(), "{}", String::from_utf8_lossy(&dd.stderr));
            assert!(endpoint.content(&format!("copy{block}")) == content, "blocks of {block}");
            assert!(fs::read(&to).unwrap() == content, "blocks of {block}, read back");
        }
    });
}

/// The kernel cuts a large write into pieces, and may send them side by side.
#[test]
fn large_appends_with_o_direct_keep_their_order() {
    const SCRIPT: &str = "
import mmap, os, random, sys
path, random_ = sys.argv[1], random.Random(int(sys.argv[2]))
file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_DIRECT | os.O_CREAT)
buffer, model = mmap.mmap(-1, 8 << 20), b''
for step in range(5):
    buffer[:] = random_.randbytes(8 << 20)
    assert os.write(file, buffer) == 8 << 20
    model += buffer[:]
os.close(file)
with open(path + '.model', 'wb') as copy:
    copy.write(model)";
    let seed = seed();
    scenario().within(MINUTE * 2).mounted(move |endpoint, mount| {
        python(SCRIPT, &[&seed.to_string()], &mount.join("file"));
        let (stored, model) = (endpoint.content("file"), endpoint.content("file.model"));
        assert_eq!(stored.len(), model.len());
        assert!(stored == model, "pieces changed places");
    });
}

#[test]
fn two_processes_share_a_mapping_and_msync_stores_it() {
    const SCRIPT: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
pages = mmap.mmap(file, 0)
go, done = os.pipe(), os.pipe()
if os.fork() == 0:
    os.read(go[0], 1)
    assert pages[100:106] == b'parent', pages[100:106]
    other = os.open(sys.argv[1], os.O_RDWR)
    theirs = mmap.mmap(other, 0)
    assert theirs[100:106] == b'parent'
    theirs[20000:20005] = b'child'
    theirs.flush()
    os.write(done[1], b'.')
    os._exit(0)
pages[100:106] = b'parent'
pages.flush()
os.write(go[1], b'.')
assert os.read(done[0], 1) == b'.'
assert os.wait()[1] == 0
assert pages[20000:20005] == b'child'
os.fsync(file)";
    scenario().unmounted(|endpoint| {
        let mut content = noise(1, 30_000);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        python(SCRIPT, &[], &mount.join("file"));
        content[100..106].copy_from_slice(b"parent");
        content[20_000..20_005].copy_from_slice(b"child");
        assert!(endpoint.content("file") == content);
        endpoint.assert_dsse("file");
    });
}

#[test]
fn a_mapping_neither_lengthens_its_file_nor_survives_a_cut() {
    const SCRIPT: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
pages = mmap.mmap(file, 20000)
# Past the end, within the last page: for this process alone, until the file grows.
pages[9000:9004] = b'lost'
pages[8000:8004] = b'kept'
pages.flush()
assert os.fstat(file).st_size == 9000 - 500
# The second and third page are dirty when the file is cut within the first.
pages[5000:5004] = b'gone'
os.ftruncate(file, 3000)
assert os.pread(file, 100, 2990) == pages[2990:3000]
os.ftruncate(file, 9000)
assert pages[3000:9000] == bytes(6000), 'what was cut off came back'
assert os.pread(file, 9000, 3000) == bytes(6000)
pages[4000:4005] = b'again'
os.close(file)";
    scenario().unmounted(|endpoint| {
        let mut content = noise(1, 8_500);
        endpoint.put("file", &content);
        let mount = Mount::of(&endpoint);
        let script = SCRIPT.replace(
            "mmap.mmap(file, 20000)",
            "(os.ftruncate(file, 12000), mmap.mmap(file, 12000), os.ftruncate(file, 8500))[1]",
        );
        python(&script, &[], &mount.join("file"));
        content.truncate(3000);
        content.resize(9000, 0);
        content[4000..4005].copy_from_slice(b"again");
        crate::common::eventually("the mapping's last page in the store", MINUTE, || {
            endpoint.content("file") == content
        });
    });
}

/// Each step of the program writes or reads through a mapping, a handle for both, one that can only write (which the
/// kernel does not cache), or an O_DIRECT one, and compares with a bytearray.
#[test]
fn mappings_writes_and_reads_of_one_file_agree() {
    const SCRIPT: &str = "
import mmap, os, random, sys
path, random_ = sys.argv[1], random.Random(int(sys.argv[2]))
size = 300000
both, write_only = os.open(path, os.O_RDWR), os.open(path, os.O_WRONLY)
direct, read_only = os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY)
pages = mmap.mmap(both, size)
with open(path, 'rb') as file:
    model = bytearray(file.read())
buffer = mmap.mmap(-1, 65536)
for step in range(600):
    length = random_.randrange(1, 20000)
    at = random_.randrange(0, size - length)
    data = random_.randbytes(length)
    kind = random_.randrange(9)
    if kind == 0:
        pages[at:at + length] = data
    elif kind == 1:
        os.pwrite(both, data, at)
    elif kind == 2:
        os.pwrite(write_only, data, at)
    elif kind == 3:
        at, length = at // 4096 * 4096, 4096
        data = random_.randbytes(length)
        buffer[:length] = data
        with memoryview(buffer) as view, view[:length] as part:
            assert os.pwritev(direct, [part], at) == length
    elif kind == 4:
        assert pages[at:at + length] == model[at:at + length], (step, 'mapping', at, length)
    elif kind == 5:
        assert os.pread(read_only, length, at) == model[at:at + length], (step, 'read', at, length)
    elif kind == 6:
        with memoryview(buffer) as view, view[:8192] as part:
            at = at // 4096 * 4096
            got = os.preadv(direct, [part], at)
            assert part[:got] == model[at:at + got], (step, 'direct', at)
    elif kind == 7:
        pages.flush()
    elif kind == 8 and random_.randrange(10) == 0:
        os.fsync(both)
    if kind < 4:
        model[at:at + length] = data
assert pages[:] == model, 'the mapping in the end'
pages.flush()
os.fsync(both)
with open(path + '.model', 'wb') as file:
    file.write(model)";
    let seed = seed();
    scenario().within(MINUTE * 2).unmounted(move |endpoint| {
        endpoint.put("file", &noise(1, 300_000));
        let mount = Mount::of(&endpoint);
        python(SCRIPT, &[&seed.to_string()], &mount.join("file"));
        assert!(endpoint.content("file") == endpoint.content("file.model"));
    });
}
