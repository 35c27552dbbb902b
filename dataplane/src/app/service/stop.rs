//! Stopping, in order.

use std::sync::PoisonError;
use std::time::Duration;

use throughway_config::AtProgram;

use super::Service;
use crate::app::restart;

impl Service {
    /// Gives the interfaces back to the kernel, or leaves the XDP program to them, and ends everything, in order. `orderly`: sessions
    /// are as they should be, and are kept for the next instance.
    pub fn stop(&mut self, orderly: bool) {
        self.stopped = true;
        let keep = orderly && self.config.at_stop.program == AtProgram::Keep;
        // First, so that no change of the host makes the interfaces ours again meanwhile.
        self.mirror.stop();
        self.health.stop();
        if let Some(pulse) = &mut self.pulse {
            if keep { pulse.leave() } else { pulse.stop() }
        }
        if keep {
            // As if killed: the program stays, for what it does not execute the fail mode holds once the sockets are closed.
            self.attachments.drain(..).for_each(throughway_xdp::Attachment::leave);
            self.devices.drain(..).for_each(crate::app::devices::Device::leave);
            tracing::info!("the XDP program stays on the interfaces for the next instance");
        } else {
            self.give_back();
        }
        for handle in &mut self.handles {
            handle.stop();
        }
        if orderly {
            restart::save(&self.remembered.sessions(), &self.config, &self.states);
        }
        // Dropping restores what was changed of the devices.
        self.devices.clear();
    }

    /// Gives the interfaces back to the kernel.
    fn give_back(&mut self) {
        {
            let mut steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
            for device in &self.devices {
                if let Err(error) = steering.remove_interface(device.ifindex) {
                    tracing::warn!(%error, device = %device.name, "the interface could not be given back before detaching");
                }
            }
        }
        // What is already in the rings is still forwarded.
        std::thread::sleep(Duration::from_millis(20));
        for attachment in self.attachments.drain(..) {
            if let Err(error) = attachment.detach() {
                tracing::error!(%error, "the XDP program could not be detached");
            }
        }
        if let Err(error) = self.remembered.forget(self.devices.iter().map(|device| device.ifindex)) {
            tracing::warn!(%error, "the next instance will think that this one was killed");
        }
    }
}
