//! Capabilities (capabilities(7)) and the bit that keeps new ones away.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::Lack;
use super::grants::Grants;

/// Drops all capabilities, also those that an executed program would get. A daemon of root whose files belong to
/// another user keeps the capability by which it reaches them. Without it the mount would end when the daemon reads the
/// credentials again.
pub(super) fn drop_unneeded(grants: &Grants) -> Result<String, Lack> {
    let kept = needed(grants).map_err(refused)?;
    keep_only(kept).map_err(refused)?;
    let names: Vec<String> = kept.iter_names().map(|(name, _)| name.to_lowercase()).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join("+") })
}

fn keep_only(kept: CapabilitySet) -> Result<(), Errno> {
    set_no_new_privs(true)?;
    // Kernels without ambient capabilities have none to clear.
    clear_ambient_capability_set().or_else(|errno| if errno == Errno::INVAL { Ok(()) } else { Err(errno) })?;
    for capability in CapabilitySet::all().iter() {
        // Who may not lower the bound has nothing that it could give: no program that is executed gains anything from
        // here on.
        let _ = remove_capability_from_bounding_set(capability);
    }
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() })
}

/// Found out by trying: without effective capabilities, can the files be reached?
fn needed(grants: &Grants) -> Result<CapabilitySet, Errno> {
    let held = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..held })?;
    let mut needed = CapabilitySet::empty();
    if grants.read.iter().chain(&grants.files).any(|path| is_denied(path, Access::READ_OK)) {
        needed |= CapabilitySet::DAC_READ_SEARCH;
    }
    if grants.write.iter().any(|path| is_denied(path, Access::READ_OK | Access::WRITE_OK)) {
        needed |= CapabilitySet::DAC_OVERRIDE;
    }
    set_capabilities(None, held)?;
    Ok(needed & held.permitted)
}

fn is_denied(path: &Path, access: Access) -> bool {
    accessat(CWD, path, access, AtFlags::EACCESS) == Err(Errno::ACCESS)
}

fn refused(errno: Errno) -> Lack {
    Lack::Refused(errno.to_string())
}
