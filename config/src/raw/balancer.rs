//! The load balancer.

use super::*;
use crate::checked::{Affinity, Forwarding, Verify, WhenAllDown};
use crate::value::{
    Address, Duration, Flag, HttpPath, Name, Number, PortRange, Protocol, SourceAddress, Status, Text,
};

/// A load balancer: services, each an address that stands for many servers.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LoadBalancer {
    /// The services.
    pub(crate) services: At<Vec<At<Service>>>,
    /// The most connections that are remembered. Default: 1000000.
    pub(crate) connections: Option<Written<Number<1, { 1 << 30 }>>>,
    /// Entries of a service's Maglev table: a prime, a hundred times the backends or more. Default: what fits each service.
    pub(crate) table_size: Option<Written<Number<251, 2_097_143>>>,
}

/// A service.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Service {
    /// A name for metrics and commands.
    #[serde(default)]
    pub(crate) name: Given<Written<Name>>,
    /// The addresses that clients use.
    pub(crate) vip: OneOrMany<Address>,
    /// The ports that clients use; without, every port. Needs `protocol` tcp, udp or sctp.
    #[serde(default)]
    pub(crate) port: Given<OneOrMany<PortRange>>,
    /// The protocols that are balanced; without, every protocol.
    #[serde(default)]
    pub(crate) protocol: Given<OneOrMany<Protocol>>,
    /// How packets reach the backends. Default: nat.
    #[serde(default)]
    pub(crate) forward: Given<Written<Forwarding>>,
    /// Translates the source as well: `true` for an address of the interface that packets leave by, or addresses.
    #[serde(default)]
    pub(crate) source_nat: Given<OneOrMany<SourceAddress>>,
    /// The servers.
    pub(crate) backends: At<Vec<At<Backend>>>,
    /// How it is found out which backends are alive. Without, they always are.
    pub(crate) health: Option<At<Health>>,
    /// What stays with the same backend. Default: connection.
    #[serde(default)]
    pub(crate) affinity: Given<Written<Affinity>>,
    /// With affinity source: for how long after its last connection a client stays with its backend, whoever comes or goes.
    /// Default: not at all, the hash alone decides.
    #[serde(default)]
    pub(crate) affinity_timeout: Given<Written<Duration>>,
    /// Whether echo requests to its addresses are answered here. Default: false.
    #[serde(default)]
    pub(crate) answer_ping: Given<Written<Flag>>,
    /// What is done while no backend is alive. Default: backup where there are such backends, else reject.
    #[serde(default)]
    pub(crate) when_all_down: Given<Written<WhenAllDown>>,
    /// Over how long a backend that came up is given its full share. Default: at once.
    #[serde(default)]
    pub(crate) slow_start: Given<Written<Duration>>,
}

/// A server.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Backend {
    /// Its address.
    pub(crate) address: Written<Address>,
    /// Its port. Default: the one that the client uses.
    #[serde(default)]
    pub(crate) port: Given<Written<Number<1, 65535>>>,
    /// Its share, relative to the others; 0 gets no new connections. Default: 1.
    #[serde(default)]
    pub(crate) weight: Given<Written<Number<0, 1000>>>,
    /// Whether it is used only while all others are down. Default: false.
    #[serde(default)]
    pub(crate) backup: Given<Written<Flag>>,
}

/// How it is found out which backends are alive: one of `tcp`, `http`, `https`, `icmp`, `udp`, `exec`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Health {
    /// `true`: a TCP connection can be opened.
    #[serde(default)]
    pub(crate) tcp: Given<Written<Flag>>,
    /// The path of an HTTP request.
    #[serde(default)]
    pub(crate) http: Given<Written<HttpPath>>,
    /// The path of an HTTPS request.
    #[serde(default)]
    pub(crate) https: Given<Written<HttpPath>>,
    /// `true`: echo requests are answered.
    #[serde(default)]
    pub(crate) icmp: Given<Written<Flag>>,
    /// The text of a datagram that is answered.
    #[serde(default)]
    pub(crate) udp: Given<Written<Text>>,
    /// A program with its arguments that exits with 0; the environment names the backend.
    #[serde(default)]
    pub(crate) exec: Given<OneOrMany<Text>>,
    /// The port to ask. Default: the backend's, else the service's.
    #[serde(default)]
    pub(crate) port: Given<Written<Number<1, 65535>>>,
    /// How often. Default: 2s.
    #[serde(default)]
    pub(crate) interval: Given<Written<Duration>>,
    /// Up to how much is added to each interval at random. Default: a tenth of it.
    #[serde(default)]
    pub(crate) jitter: Given<Written<Duration>>,
    /// How long an answer is waited for. Default: 1s, or the interval if that is shorter.
    #[serde(default)]
    pub(crate) timeout: Given<Written<Duration>>,
    /// How many good answers in a row bring a backend up. Default: 2.
    #[serde(default)]
    pub(crate) rise: Given<Written<Number<1, 100>>>,
    /// How many bad answers in a row take a backend down. Default: 3.
    #[serde(default)]
    pub(crate) fall: Given<Written<Number<1, 100>>>,
    /// The good status codes of HTTP. Default: 200-399.
    #[serde(default)]
    pub(crate) status: Given<OneOrMany<Status>>,
    /// What the answer of HTTP or UDP must contain.
    #[serde(default)]
    pub(crate) body: Given<Written<Text>>,
    /// The name of the host in HTTP requests, for SNI, and of the certificate. Default: the backend's address.
    #[serde(default)]
    pub(crate) host: Given<Written<Text>>,
    /// Against what the certificate of HTTPS is verified. Default: none, or ca-file where there is one.
    #[serde(default)]
    pub(crate) verify: Given<Written<Verify>>,
    /// A file of certificates (PEM) that certificates of HTTPS are verified against.
    #[serde(default)]
    pub(crate) ca_file: Given<Written<Text>>,
}
