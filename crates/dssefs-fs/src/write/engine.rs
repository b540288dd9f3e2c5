//! What all writers of a mount share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::RwLock;

use crate::spill::{self, Pool};
use dssefs_s3::s3::{Gateway, LastWriterWins};

use super::Slots;
use super::parts::SINGLE_PUT_BYTES_MAX;

/// How long a write waits for memory unless it is given another limit.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Parts of all files that take long and are under way beside others. The memory that they hold limits them too.
const SLOW_PARTS_MAX: usize = 64;

/// How writers behave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Parts of all files that are under way to the store at the same time.
    pub parts_in_flight_max: usize,
    /// Parts of one file that may be under way before its program is slowed down.
    pub file_parts_in_flight_max: usize,
    /// How long one write may be slowed down before it goes on into the spill.
    pub slow_max: Duration,
    /// How long a write may wait for memory before it fails.
    pub wait_max: Duration,
    /// Given where a commit may replace what another host has stored since its file was opened.
    pub last_writer_wins: Option<LastWriterWins>,
}

impl Settings {
    /// Settings for writers that share `memory_bytes_max`: as many small parts under way as fit beside those being
    /// filled.
    #[must_use]
    pub fn for_memory(memory_bytes_max: u64, last_writer_wins: Option<LastWriterWins>) -> Settings {
        let parts = usize::try_from(memory_bytes_max / SINGLE_PUT_BYTES_MAX).unwrap_or(usize::MAX);
        Settings {
            parts_in_flight_max: (parts / 2).clamp(1, 8),
            file_parts_in_flight_max: (parts / 2).clamp(1, 4),
            slow_max: Duration::from_secs(2),
            wait_max: WAIT_MAX,
            last_writer_wins,
        }
    }
}

/// What all writers of a mount share.
pub struct Engine {
    pub(super) gateway: Arc<Gateway>,
    pub(super) pool: Arc<Pool>,
    pub(super) slots: Slots,
    /// Commits that are under way: when they end, they give room back.
    pub(super) commits: AtomicUsize,
    /// Those among them that wait for `fills`.
    pub(super) blocked: AtomicUsize,
    /// Held by each part that has taken room for bytes of an object: see [`super::read_modify_write::Filling`].
    pub(super) fills: RwLock<()>,
    pub(super) settings: Settings,
}

impl Engine {
    /// An engine that sends through `gateway` and keeps bytes in `pool`.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, pool: Arc<Pool>, settings: Settings) -> Arc<Engine> {
        let slots = Slots::new(settings.parts_in_flight_max, SLOW_PARTS_MAX);
        let (commits, blocked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Engine { gateway, pool, slots, commits, blocked, fills: RwLock::new(()), settings })
    }

    /// The store that the writers send to.
    #[must_use]
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// How much memory and spill the writers use.
    #[must_use]
    pub fn usage(&self) -> spill::Usage {
        self.pool.usage()
    }
}
