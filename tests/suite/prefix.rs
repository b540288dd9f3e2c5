//! Credentials that a policy limits to a prefix.

use std::fs;

use dssefs_emulator::faults::{Fault, Rule};

use crate::common::{ACCESS_KEY, BUCKET, MINUTE, Mount, SECRET_KEY, commit, dssefs, errno, names, scenario};

/// As a policy does that allows s3:ListBucket under the condition s3:prefix.
#[test]
fn credentials_that_are_limited_to_a_prefix_mount_that_prefix() {
    scenario().within(MINUTE * 2).unmounted(|endpoint| {
        endpoint.put("team/old", b"old content");
        endpoint.put("other", b"not theirs");
        endpoint.inject_faults(vec![Rule::on("*", Fault::OnlyBelow("team/".into())).times(0)]);
        let key = ["--kms-key-id", endpoint.key_arn()];
        let mount = Mount::source(&endpoint, &format!("{BUCKET}/team"), &key);
        assert_eq!(names(&mount.path()), ["old"]);
        assert_eq!(fs::read(mount.join("old")).unwrap(), b"old content");
        assert_eq!(errno(fs::read(mount.join("missing"))), libc::ENOENT);
        commit(&mount.join("new"), b"content").unwrap();
        fs::create_dir(mount.join("dir")).unwrap();
        fs::rename(mount.join("new"), mount.join("dir/new")).unwrap();
        fs::rename(mount.join("dir"), mount.join("moved")).unwrap();
        assert_eq!(fs::read(mount.join("moved/new")).unwrap(), b"content");
        fs::remove_file(mount.join("old")).unwrap();
        assert_eq!(names(&mount.path()), ["moved"]);
        drop(mount);
        for (source, expected) in [("tests/team", 0), ("tests", 4), ("tests/te", 4)] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = dssefs();
            command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
            command.args(["doctor", source, "--region", "us-east-1", "--force-path-style"]).args(key);
            command.args(["--endpoint-url", &endpoint.url()]).arg("--spill-dir").arg(dir.path());
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(expected), "{source}: {output:?}");
        }
    });
}
