//! The table that is kept prefix by prefix is the one that is made anew from everything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use throughway_config::{Config, FunctionKind};
use throughway_kernel::model::{self, RouteKey, RouteKind};
use throughway_packet::PortId;
use throughway_router::{NextHop, NextHops};

use super::*;

const CONFIGS: [&str; 3] = [
    "{}",
    "{ table: 100, routes: [ { prefix: 10.0.0.0/16, via: 10.1.0.9, metric: 5 }, { prefix: 10.1.0.0/24, blackhole: true } ] }",
    "{ routes: [ { prefix: 0.0.0.0/0, via: 10.2.0.9 }, { prefix: 10.0.1.0/24, interface: wan, metric: 3 }, \
       { prefix: 10.0.1.0/24, unreachable: true, metric: 6 }, { prefix: 10.0.0.0/16, via: 192.0.2.7 } ] }",
];

fn config(text: &str) -> throughway_config::Router {
    let text = format!(
        "interfaces: {{ lan: {{ device: lan0 }}, wan: {{ device: wan0 }} }}\nfunctions: {{ core: {{ router: {text} }} }}\n\
         chains: {{ all: {{ from: lan, run: [core] }} }}\n"
    );
    let (config, _) = Config::parse("test.yaml", &text).unwrap();
    match &config.functions[0].kind {
        FunctionKind::Router(router) => router.clone(),
        _ => unreachable!("it is a router"),
    }
}

fn prefixes() -> Vec<Prefix> {
    let texts = [
        ("0.0.0.0", 0),
        ("10.0.0.0", 8),
        ("10.0.0.0", 16),
        ("10.0.1.0", 24),
        ("10.1.0.0", 24),
        ("10.0.1.128", 25),
        ("10.1.0.1", 32),
        ("10.0.1.7", 32),
    ];
    texts.map(|(address, len)| Prefix::new(address.parse().unwrap(), len).unwrap()).to_vec()
}

/// Everything that the table follows from.
#[derive(Clone, Debug)]
struct World {
    routes: Routes,
    nexthops: BTreeMap<u32, Vec<model::NextHop>>,
    host: HostFacts,
}

impl World {
    fn new() -> Self {
        let names = ["lan", "wan"].map(|name| (name.to_owned(), format!("{name}0")));
        let mut host = HostFacts::invented(names);
        for (number, port) in (1..).zip(&mut host.ports) {
            port.ifindex = number;
            port.addresses.push((format!("10.{number}.0.1").parse().unwrap(), 24));
            host.local.push(format!("10.{number}.0.1").parse().unwrap());
        }
        World { routes: Routes::default(), nexthops: BTreeMap::new(), host }
    }

    fn ports(&self) -> PortMap {
        PortMap::of(&self.host)
    }

    fn group(&self, id: u32) -> Option<Route> {
        candidate::forward(self.nexthops.get(&id)?.iter(), &self.ports())
    }
}

/// What the table must say, made in the most simple way from everything there is.
fn naive(config: &throughway_config::Router, world: &World) -> BTreeMap<Prefix, Route> {
    let up = |port: PortId| world.host.ports[port.index()].up;
    let ports = crate::assemble::router::ports(&world.host, config);
    let mut table = BTreeMap::new();
    for prefix in prefixes() {
        let mut offers: Vec<(u32, u8, Route)> = Vec::new();
        for (number, route) in config.routes.iter().enumerate() {
            if route.prefix.get() == prefix {
                // Through the facts of another router with this route alone.
                let mut alone = config.clone();
                alone.routes = vec![config.routes[number]];
                let fixed = Fixed::new(&alone, &world.host);
                if let Some(route) = &fixed.get(prefix).unwrap().statics[0].route {
                    offers.push((config.routes[number].metric, 0, route.clone()));
                }
            }
        }
        for (key, slot) in world.routes.iter() {
            if key.table != config.table.0 || key.prefix != model_prefix(prefix) || key.tos != 0 {
                continue;
            }
            let route = match slot[0].kind {
                RouteKind::Blackhole => Route::Blackhole,
                RouteKind::Prohibit => Route::Prohibit,
                RouteKind::Unicast => {
                    let alive: Vec<_> = slot[0].next_hops.iter().filter(|hop| !hop.dead).collect();
                    if alive.is_empty() {
                        continue;
                    }
                    let ours = alive.iter().filter_map(|hop| {
                        let port = PortId(u16::try_from(hop.ifindex? - 1).unwrap());
                        (port.0 < 2).then_some(NextHop { port, gateway: hop.gateway, weight: hop.weight })
                    });
                    NextHops::new(ours).map_or(Route::NotOurs, Route::Forward)
                }
                _ => continue,
            };
            offers.push((key.metric, 1, route));
        }
        offers.sort_by_key(|(metric, order, _)| (*metric, *order));
        let mut offers: Vec<Route> = offers.into_iter().map(|(_, _, route)| route).collect();
        let connected = ports.connected_routes();
        offers.extend(
            connected
                .iter()
                .rev()
                .find(|(at, route)| *at == prefix && matches!(route, Route::Forward(_)))
                .map(|(_, route)| route.clone()),
        );
        let usable = |route: &Route| match route {
            Route::Forward(hops) => hops.iter().any(|hop| up(hop.port)),
            _ => true,
        };
        let mut chosen = offers.iter().find(|route| usable(route)).or(offers.first()).cloned();
        if let Some((_, own)) =
            connected.iter().rev().find(|(at, route)| *at == prefix && !matches!(route, Route::Forward(_)))
        {
            chosen = Some(own.clone());
        }
        // What has lost its link is left out, unless that is all of it.
        if let Some(Route::Forward(hops)) = &chosen
            && let Some(rest) = NextHops::new(hops.iter().filter(|hop| up(hop.port)).copied())
        {
            chosen = Some(Route::Forward(rest));
        }
        table.extend(chosen.map(|route| (prefix, route)));
    }
    table
}

fn check(rib: &Rib, world: &World) -> Result<(), TestCaseError> {
    let table = naive(rib.config(), world);
    for text in
        ["10.0.1.7", "10.0.1.8", "10.0.1.200", "10.0.2.1", "10.1.0.1", "10.1.0.2", "10.9.9.9", "192.0.2.1"]
    {
        let address: IpAddr = text.parse().unwrap();
        let longest =
            table.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(at, _)| at.len());
        // Broadcast and own addresses that are not among the prefixes are not asked for.
        let found = rib.fib().lookup(address);
        prop_assert_eq!(found.as_deref(), longest.map(|(_, route)| route), "{}", address);
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Event {
    /// Position of the prefix, table, metric, TOS, what.
    Route(usize, u32, u32, u8, Option<What>),
    /// A nexthop object becomes this.
    Object(u32, Vec<model::NextHop>),
    Link(usize, bool),
    Address(usize, bool),
}

#[derive(Clone, Debug)]
enum What {
    Hops(Vec<model::NextHop>),
    Object(u32),
    Blackhole,
    Prohibit,
    Multicast,
}

fn hops() -> impl Strategy<Value = Vec<model::NextHop>> {
    let hop =
        (1u8..3, 1u32..4, 1u16..4, prop::bool::weighted(0.2)).prop_map(|(last, ifindex, weight, dead)| {
            let gateway = IpAddr::from([10, 1, 0, last]);
            model::NextHop { weight, dead, ..model::NextHop::new(Some(gateway), Some(ifindex)) }
        });
    prop::collection::vec(hop, 1..4)
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let what = prop_oneof![
        5 => hops().prop_map(What::Hops),
        2 => (1u32..3).prop_map(What::Object),
        1 => Just(What::Blackhole),
        1 => Just(What::Prohibit),
        1 => Just(What::Multicast),
    ];
    let table = prop_oneof![4 => Just(254u32), 2 => Just(100u32)];
    let route = (0..prefixes().len(), table, 0u32..7, prop_oneof![9 => Just(0u8), 1 => Just(4u8)]);
    let event = prop_oneof![
        12 => (route, prop::option::weighted(0.7, what))
            .prop_map(|((at, table, metric, tos), what)| Event::Route(at, table, metric, tos, what)),
        2 => (1u32..3, hops()).prop_map(|(id, hops)| Event::Object(id, hops)),
        3 => (0usize..2, any::<bool>()).prop_map(|(port, up)| Event::Link(port, up)),
        1 => (0usize..2, any::<bool>()).prop_map(|(port, there)| Event::Address(port, there)),
    ];
    prop::collection::vec(event, 1..40)
}

/// Does to the table what the mirror does.
fn happen(world: &mut World, ribs: &mut [Rib], event: &Event) {
    match event.clone() {
        Event::Route(at, table, metric, tos, what) => {
            let prefix = prefixes()[at];
            let key = RouteKey { table, prefix: model_prefix(prefix), source: None, tos, metric };
            let route = what.and_then(|what| {
                let unicast = model::Route::default();
                Some(match what {
                    What::Hops(next_hops) => model::Route { next_hops, ..unicast },
                    What::Object(id) => model::Route {
                        next_hops: world.nexthops.get(&id)?.clone(),
                        nexthop_id: Some(id),
                        ..unicast
                    },
                    What::Blackhole => model::Route { kind: RouteKind::Blackhole, ..unicast },
                    What::Prohibit => model::Route { kind: RouteKind::Prohibit, ..unicast },
                    What::Multicast => model::Route { kind: RouteKind::Multicast, ..unicast },
                })
            });
            world.routes.set(key, route.map(Arc::new).into_iter().collect());
            let ports = world.ports();
            for rib in ribs.iter_mut().filter(|rib| rib.table() == Some(table)) {
                rib.update(Kernel { routes: &world.routes, ports: &ports }, [prefix]);
            }
        }
        Event::Object(id, hops) => {
            world.nexthops.insert(id, hops.clone());
            let users: Vec<_> = world
                .routes
                .iter()
                .filter(|(_, slot)| slot[0].nexthop_id == Some(id))
                .map(|(key, slot)| (*key, Arc::clone(&slot[0])))
                .collect();
            for (key, route) in &users {
                let route = model::Route { next_hops: hops.clone(), ..(**route).clone() };
                world.routes.set(*key, vec![Arc::new(route)]);
            }
            let ports = world.ports();
            for rib in ribs {
                rib.update_groups(|id| world.group(id));
                let prefixes =
                    users.iter().filter_map(|(key, _)| Prefix::new(key.prefix.address, key.prefix.len).ok());
                rib.update(Kernel { routes: &world.routes, ports: &ports }, prefixes);
            }
        }
        Event::Link(port, up) => {
            world.host.ports[port].up = up;
            let ports = world.ports();
            for rib in ribs {
                rib.port_lost(PortId(port as u16), !up);
                rib.update_contested(Kernel { routes: &world.routes, ports: &ports });
            }
        }
        Event::Address(port, there) => {
            let own: IpAddr = format!("10.{}.0.1", port + 1).parse().unwrap();
            world.host.ports[port].addresses.clear();
            world.host.local.retain(|address| *address != own);
            if there {
                world.host.ports[port].addresses.push((own, 24));
                world.host.local.push(own);
            }
            let ports = world.ports();
            for rib in ribs {
                rib.host_changed(&world.host, Kernel { routes: &world.routes, ports: &ports });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prefix_by_prefix_is_what_making_it_anew_gives(events in events()) {
        let mut world = World::new();
        let ports = world.ports();
        let kernel = Kernel { routes: &world.routes, ports: &ports };
        let mut ribs: Vec<Rib> =
            CONFIGS.iter().map(|text| Rib::new(&config(text), &world.host, kernel)).collect();
        for event in &events {
            happen(&mut world, &mut ribs, event);
            for rib in &ribs {
                check(rib, &world)?;
            }
        }
        // And a table that is made now is the same again.
        let ports = world.ports();
        for rib in &ribs {
            check(&Rib::new(rib.config(), &world.host, Kernel { routes: &world.routes, ports: &ports }), &world)?;
        }
    }
}

#[test]
fn facts_of_routes_survive() {
    let mut world = World::new();
    for event in [
        Event::Route(
            1,
            254,
            3,
            0,
            Some(What::Hops(vec![model::NextHop::new(Some([10, 1, 0, 2].into()), Some(1))])),
        ),
        Event::Route(2, 100, 0, 0, Some(What::Blackhole)),
    ] {
        happen(&mut world, &mut [], &event);
    }
    let ports = world.ports();
    let written = facts::facts(Kernel { routes: &world.routes, ports: &ports });
    let host = HostFacts { routes: Arc::new(written.clone()), ..world.host.clone() };
    let (routes, ports) = facts::routes(&host);
    assert_eq!(facts::facts(Kernel { routes: &routes, ports: &ports }), written);
    assert_eq!(written.len(), 2);
}
