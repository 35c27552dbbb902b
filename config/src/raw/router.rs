//! The router.

use super::*;
use crate::checked::{Mss, TableId, Urpf};
use crate::value::{Address, Flag, Name, Number, Prefix};

/// A router: longest prefix match over a table of the kernel and static routes.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Router {
    /// The kernel's routing table to mirror: `main` or a number. Default: main.
    pub(crate) table: Option<Written<TableId>>,
    /// Whether that table is mirrored at all. Default: true.
    pub(crate) kernel_routes: Option<Written<Flag>>,
    /// Which source addresses packets may have: those that the table has a route to (`loose`), by the interface they come from
    /// (`strict`). An interface may say otherwise for itself. Default: off.
    pub(crate) urpf: Option<Written<Urpf>>,
    /// Whether packets from and to reserved addresses (240.0.0.0/4, 100::/64, ::ffff:0:0/96) are forwarded. Default: false.
    pub(crate) forward_reserved: Option<Written<Flag>>,
    /// To what the maximum segment size of TCP connections is lowered: what fits the interfaces (`clamp`), or a number of bytes.
    /// Default: off.
    pub(crate) mss: Option<Written<Mss>>,
    /// Static routes.
    pub(crate) routes: Option<Vec<At<Route>>>,
}

/// A static route: a prefix and one of `via`, `interface`, `blackhole`, `unreachable`, `prohibit`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Route {
    /// Which destinations.
    pub(crate) prefix: Written<Prefix>,
    /// Sends packets to this gateway.
    pub(crate) via: Option<Written<Address>>,
    /// The interface that leads to the gateway; without `via`, the one whose link the destinations are on.
    pub(crate) interface: Option<Written<Name>>,
    /// Drops packets silently.
    pub(crate) blackhole: Option<Written<Flag>>,
    /// Drops packets and answers "host unreachable".
    pub(crate) unreachable: Option<Written<Flag>>,
    /// Drops packets and answers "administratively prohibited".
    pub(crate) prohibit: Option<Written<Flag>>,
    /// Among routes of the same prefix the lowest metric wins. Default: 0.
    pub(crate) metric: Option<Written<Number<0, { u32::MAX }>>>,
}
