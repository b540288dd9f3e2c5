//! The outer layer, next to the disk. The build decides which library it is: ring, or with the feature `fips` the FIPS
//! module of AWS-LC. Both are of one lineage, so only one of them may stand beside the inner layer.

#[cfg(feature = "fips")]
mod with_fips;
#[cfg(not(feature = "fips"))]
mod with_ring;

#[cfg(feature = "fips")]
pub(super) use with_fips::require_fips_mode;
#[cfg(feature = "fips")]
pub use with_fips::{LAYERS, MODULE, Outer};
#[cfg(not(feature = "fips"))]
pub use with_ring::{LAYERS, Outer};
