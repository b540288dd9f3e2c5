//! `dssefs doctor`.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::{complain, complain_of, logging};
use crate::config::{Examined, RawStore};
use crate::daemon::doctor::{self, Finding};
use dssefs_s3::escaping::{shown, shown_value};

/// The arguments of `dssefs doctor`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// What would be mounted
    #[arg(value_name = "BUCKET[/PREFIX]")]
    source: String,
    /// The KMS key of the mount's objects: ARN, id or alias [default: aws/s3]
    #[arg(long, env = "DSSEFS_KMS_KEY_ID", value_name = "KEY")]
    kms_key_id: Option<String>,
    /// A pair bound to each data key, as the mount is given it; may be given again
    #[arg(long, env = "DSSEFS_ENCRYPTION_CONTEXT", value_name = "NAME=VALUE")]
    encryption_context: Vec<String>,
    /// The directory of the mount's spill [default: both that mounts choose by themselves]
    #[arg(long, env = "DSSEFS_SPILL_DIR", value_name = "DIR")]
    spill_dir: Option<PathBuf>,
    /// Abort the uploads that crashed mounts of this host left in the bucket, and delete the objects that they held
    #[arg(long)]
    abort_leftovers: bool,
    #[command(flatten)]
    store: RawStore,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let _logging = logging::start_of_command();
    let Arguments { source, kms_key_id, encryption_context, spill_dir, abort_leftovers, store } = arguments;
    let examined = Examined::check(source, kms_key_id.as_deref(), encryption_context, spill_dir.as_deref(), store);
    let examined = match examined {
        Ok(examined) => examined,
        Err(problems) => {
            complain_of(&problems);
            return Exit::Usage;
        }
    };
    match doctor::examine(&examined, *abort_leftovers) {
        // What is bad first is most often the cause of the rest.
        Ok(findings) => {
            let exits: Vec<Exit> = findings.iter().map(tell).collect();
            exits.into_iter().find(|exit| *exit != Exit::Ok).unwrap_or(Exit::Ok)
        }
        Err(error) => {
            complain(&error);
            Exit::from(&error)
        }
    }
}

fn tell(finding: &Finding) -> Exit {
    match finding {
        Finding::Good(text) => println!("good    {}", shown(text)),
        Finding::Remark(text) => println!("remark  {}", shown(text)),
        Finding::Bad(error) => println!("bad     {}", shown_value(error)),
    }
    if let Finding::Bad(error) = finding { Exit::from(error) } else { Exit::Ok }
}
