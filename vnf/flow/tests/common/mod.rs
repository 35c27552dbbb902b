//! What the tests share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses a part of this")]

use throughway_flow::{Credits, Dependencies, NewFlow, Probe};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Edit, PortId, edits, peek_or_panic as _};
