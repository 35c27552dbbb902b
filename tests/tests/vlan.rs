//! VLANs on the wire. The kernel of the test machine may have no VLAN devices, so the client speaks raw frames.

use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::{Scene, eventually, privileged};

/// Sends a datagram with `data` from 10.*net*.0.10 to server a behind tags, and prints the data and the tags (outer identifier,
/// then what follows in the frame) of the answer. Arguments: own MAC address, the box's, net, data, tags as TPID:TCI.
const ASK: &str = r#"
import socket, struct, sys, time
own, box, net, data, tags = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode(), sys.argv[5:]
mac = lambda text: bytes.fromhex(text.replace(':', ''))
udp = struct.pack('!HHHH', 4000 + net, 7000, 8 + len(data), 0) + data
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes([10, net, 0, 10]), bytes([10, 2, 0, 10]))
total = sum(struct.unpack('!10H', ip))
while total >> 16: total = (total & 0xffff) + (total >> 16)
ip = ip[:10] + struct.pack('!H', total ^ 0xffff) + ip[12:]
front = b''.join(struct.pack('!HH', *[int(part, 16) for part in tag.split(':')]) for tag in tags)
frame = mac(box) + mac(own) + front + struct.pack('!H', 0x0800) + ip + udp
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('eth0', 0))
wire.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the kernel takes the outer tag off, and says so there
wire.settimeout(0.2)
for attempt in range(int(10)):
    wire.send(frame)
    until = time.time() + 0.3
    while time.time() < until:
        try: got, extra, _, address = wire.recvmsg(2000, 100)
        except TimeoutError: break
        if address[2] == 4 or data not in got or got[:6] != mac(own): continue
        tci = [struct.unpack('IIIHHHH', e[2][:20]) for e in extra]
        tag = ['%x:%x' % (t[6], t[5]) for t in tci if t[0] & 0x10]
        print(*tag, got[12:-len(data) - 28].hex(), data.decode())
        sys.exit()
print('no answer')
"#;

/// Answers every datagram on port 7000.
const ANSWER: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('10.2.0.10', 7000))
while True:
    data, peer = s.recvfrom(2000)
    s.sendto(data, peer)
"#;

/// The MAC address of a device.
fn mac(scene: &Scene, host: Host, device: &str) -> String {
    let output = scene.run(host, &["ip", "-o", "link", "show", "dev", device]).stdout;
    let (_, rest) = output.split_once("link/ether ").expect("an Ethernet device");
    rest.split_whitespace().next().expect("its address").to_owned()
}

#[test]
fn tagged_frames_are_forwarded_and_answers_come_back_tagged() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    let (client, lan) = (mac(&scene, Host::Client, "eth0"), mac(&scene, Host::Box, "lan0"));
    let vlan = |net: u8, vlan: &str| {
        format!(
            "{{ device: lan0, vlan: {vlan}, addresses: 10.{net}.0.1/24, \
             neighbours: [ {{ address: 10.{net}.0.10, mac: \"{client}\" }} ] }}"
        )
    };
    let yaml = format!(
        "interfaces:\n  lan: {{ device: lan0 }}\n  voice: {}\n  guest: {}\n  wan: {{ device: wan0 }}\n\
         functions: {{ core: {{ router: {{}} }} }}\n\
         chains: {{ all: {{ from: [lan, voice, guest, wan], run: [core] }} }}\n",
        vlan(77, "100"),
        vlan(78, "[200, 30]"),
    );
    scene.start_with(&yaml);
    let answering = scene.lab.spawn(Host::ServerA, &["python3", "-c", ANSWER], "answer.log");
    let _answering = answering.expect("python3 starts");
    eventually("the answering socket is there", Duration::from_secs(10), || {
        let sockets = scene.run(Host::ServerA, &["ss", "-Hnlu", "sport", "=", ":7000"]).stdout;
        (!sockets.is_empty()).then_some(())
    });

    let ask = |net: &str, tags: &[&str]| {
        let data = format!("over {net}");
        let mut argv = vec!["python3", "-c", ASK, &client, &lan, net, &data];
        argv.extend(tags);
        scene.run(Host::Client, &argv).stdout.trim().to_owned()
    };
    assert_eq!(ask("77", &["8100:a064"]), "8100:64 0800 over 77");
    // The inner tag is in the frame, the outer one beside it.
    assert_eq!(ask("78", &["88a8:00c8", "8100:001e"]), "88a8:c8 8100001e0800 over 78");
    assert_eq!(ask("77", &["8100:0065"]), "no answer", "a VLAN that is nobody's");
    assert!(scene.pings(Host::Client, "10.2.0.10", 5), "untagged frames go on as ever");

    let drops = scene.show("drops");
    let drops = drops.as_array().expect("a list");
    let unclaimed = drops.iter().find(|row| row["where"] == "xdp" && row["reason"] == "unclaimed-vlan");
    assert!(unclaimed.is_some_and(|row| row["packets"].as_u64() >= Some(10)), "{drops:?}");
    let interfaces = scene.show("interfaces");
    let row = |name: &str| interfaces.as_array()?.iter().find(|row| row["interface"] == name).cloned();
    for (name, vlan) in [("voice", "100"), ("guest", "[200, 30]")] {
        let row = row(name).expect("an interface");
        assert_eq!(row["vlan"], vlan);
        assert!(row["receive_packets"].as_u64() >= Some(1), "{row}");
        assert!(row["transmit_packets"].as_u64() >= Some(1), "{row}");
    }
    eventually("each is counted for itself", Duration::from_secs(5), || {
        let page = scene.page();
        let sum = |name: &str, interface| page.sum(name, &[("interface", interface)]);
        let forwarded = ["voice", "guest"].map(|name| sum("throughway_receive_packets_total", name));
        forwarded.iter().all(|packets| *packets >= 1.0).then_some(())
    });
    scene.stop();
}
