//! Memory in two halves, and what travels between them in parts.

use super::machine::{Address, Device, DeviceMemory as _, HostMemory as _, Lane, MachineError, Moment as _};
use crate::cpu::team::share_among;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Bytes of a part of a transfer: while one travels, the next is copied on the host. The tests' small pictures have several.
pub(super) const PART: usize = if cfg!(test) { 3000 } else { 4 << 20 };
/// Threads that copy between a frame's memory and page-locked memory.
pub(super) const COPIERS: usize = 8;
/// Bytes that one thread copies at a time.
pub(super) const TASK: usize = if cfg!(test) { 700 } else { 128 << 10 };

/// Memory of a size that grows: the device's and the host's half, or where both share it the host's alone.
#[derive(Debug)]
pub(super) struct Room<D: Device> {
    device: Option<D::Buffer>,
    host: Option<D::Pinned>,
}

impl<D: Device> Default for Room<D> {
    fn default() -> Self {
        Self { device: None, host: None }
    }
}

impl<D: Device> Room<D> {
    /// Makes it at least this large, and gives the device's address.
    pub fn fit(&mut self, gpu: &D, bytes: usize) -> Result<Address, MachineError> {
        self.grow(gpu, bytes, !gpu.shares_memory())?;
        match (&self.device, &self.host) {
            (Some(buffer), _) => Ok(buffer.at()),
            (None, Some(host)) => gpu.address_of(host),
            (None, None) => Err(Self::missing()),
        }
    }

    /// Makes the host's half at least this large, and the device's with it where that is needed.
    fn grow(&mut self, gpu: &D, bytes: usize, on_device: bool) -> Result<(), MachineError> {
        let is_large = self.host.as_ref().is_some_and(|host| host.bytes().len() >= bytes);
        if is_large && (self.device.is_some() || !on_device) {
            return Ok(());
        }
        // What is on its way to or from the old memory arrives first.
        gpu.finish()?;
        (self.device, self.host) = (None, None);
        if on_device {
            self.device = Some(gpu.buffer(bytes)?);
        }
        // The last one: it says that there is room.
        self.host = Some(gpu.pinned(bytes)?);
        Ok(())
    }

    fn missing() -> MachineError {
        MachineError { what: "copy".into(), reason: "there is no room yet".into() }
    }

    pub fn host(&mut self) -> Result<&mut D::Pinned, MachineError> {
        self.host.as_mut().ok_or_else(Self::missing)
    }

    /// Copies a part of the host's half to the device's, later.
    pub fn send(&mut self, gpu: &D, lane: Lane, part: Range<usize>) -> Result<(), MachineError> {
        match (&self.device, &self.host) {
            (Some(buffer), Some(host)) => gpu.send(lane, host, part.clone(), buffer.at() + part.start as Address),
            _ => Ok(()),
        }
    }

    /// Copies a part of the device's half to the host's, later.
    fn fetch(&mut self, gpu: &D, lane: Lane, part: Range<usize>) -> Result<(), MachineError> {
        match (&self.device, &mut self.host) {
            (Some(buffer), Some(host)) => gpu.fetch(lane, buffer.at() + part.start as Address, host, part),
            _ => Ok(()),
        }
    }
}

/// Something on its way from the device: in parts, each with the moment at which it has come.
#[derive(Debug)]
pub(super) struct Download<D: Device> {
    room: Room<D>,
    bytes: usize,
    /// In which it was asked for last.
    lane: Lane,
    events: Vec<D::Event>,
}

impl<D: Device> Default for Download<D> {
    fn default() -> Self {
        Self { room: Room::default(), bytes: 0, lane: Lane::Work, events: Vec::new() }
    }
}

impl<D: Device> Download<D> {
    /// Makes room for so many bytes, and gives the address of the device's half; kernels that write there have to
    /// [`Self::hold`] first.
    pub fn fit(&mut self, gpu: &D, bytes: usize) -> Result<Address, MachineError> {
        self.room.fit(gpu, bytes)
    }

    /// Begins to fetch so many bytes: of the room's own device half, or of another place.
    pub fn start(&mut self, gpu: &D, lane: Lane, from: Option<Address>, bytes: usize) -> Result<(), MachineError> {
        (self.bytes, self.lane) = (bytes, lane);
        // What is elsewhere on the device needs no room there.
        self.room.grow(gpu, bytes, from.is_none() && !gpu.shares_memory())?;
        for (i, part) in parts(bytes).enumerate() {
            match from {
                Some(from) => gpu.fetch(lane, from + part.start as Address, self.room.host()?, part)?,
                None => self.room.fetch(gpu, lane, part)?,
            }
            if i == self.events.len() {
                self.events.push(gpu.event(false)?);
            }
            gpu.record(lane, &self.events[i])?;
        }
        Ok(())
    }

    /// Has what will be asked for in the kernels' lane wait until everything that was to be fetched has been.
    pub fn hold(&self, gpu: &D) -> Result<(), MachineError> {
        if self.lane == Lane::Work {
            return Ok(());
        }
        self.events.iter().try_for_each(|event| gpu.wait_for(Lane::Work, event))
    }

    /// Waits for the parts and gives them as single precision.
    pub fn floats(&mut self) -> Result<&[f32], MachineError> {
        parts(self.bytes).zip(&self.events).try_for_each(|(_, event)| event.wait())?;
        Ok(&self.room.host()?.floats()[..self.bytes / size_of::<f32>()])
    }

    /// Waits for the parts and puts them into `out`, which becomes as long as they are.
    #[allow(unsafe_code)]
    pub fn take<T: Copy + Send>(&mut self, out: &mut Vec<T>) -> Result<(), MachineError> {
        out.clear();
        let count = self.bytes / size_of::<T>();
        out.reserve(count);
        let spare = &mut out.spare_capacity_mut()[..count];
        // SAFETY: bytes of `MaybeUninit` may be written as such; they are not read.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(spare.as_mut_ptr().cast::<MaybeUninit<u8>>(), size_of_val(spare)) };
        for (part, event) in parts(self.bytes).zip(&self.events) {
            event.wait()?;
            let from = &self.room.host()?.bytes()[part.clone()];
            let tasks = bytes[part].chunks_mut(TASK).zip(from.chunks(TASK));
            share_among(
                COPIERS,
                tasks,
                || (),
                |(), (to, from)| {
                    // SAFETY: as long as each other (the last chunks, too), and not the same memory.
                    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr().cast::<u8>(), from.len()) };
                },
            );
        }
        // SAFETY: all of them have been written; `T` is u8 or f32, of which every bit pattern is a value.
        unsafe { out.set_len(count) };
        Ok(())
    }
}

fn parts(bytes: usize) -> impl Iterator<Item = Range<usize>> {
    (0..bytes).step_by(PART).map(move |start| start..(start + PART).min(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::machine::Machine as _;
    use super::super::sim::Sim;
    use super::*;
    use zerocopy::IntoBytes as _;

    #[test]
    fn what_comes_from_elsewhere_on_the_device_needs_no_room_there() {
        let Some(sim) = Sim::new(1, false) else { return };
        // In several parts.
        let values: Vec<f32> = (0..2000).map(|i| i as f32).collect();
        let bytes = size_of_val(values.as_slice());
        let elsewhere = sim.buffer(bytes).expect("memory");
        sim.upload(elsewhere.at(), values.as_bytes()).expect("memory");
        assert_eq!(sim.buffer_bytes(), bytes);
        let mut download = Download::<Sim>::default();
        for _ in 0..2 {
            download.start(&sim, Lane::Out, Some(elsewhere.at()), bytes).expect("it starts");
            assert_eq!(download.floats().expect("it comes"), values);
        }
        assert_eq!(sim.buffer_bytes(), bytes);
        // Kernels that write to it have to have it there.
        download.fit(&sim, bytes).expect("memory");
        assert_eq!(sim.buffer_bytes(), 2 * bytes);
    }
}
