//! A device that is not there, for the tests: kernels run on the processor (`host.rs`), and what is asked for later happens
//! as late as the host and the lanes' waiting for each other allow, lanes taking turns by chance. What is not in order by an
//! event comes out of order sooner or later.

use super::host::Host;
use super::machine::{
    Address, Capacity, Device, DeviceMemory, HostMemory, Lane, Launch, Machine, MachineError, Moment,
};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Something that is to be done.
#[derive(Debug)]
enum Task {
    Launch(Launch),
    Copy {
        from: Address,
        to: Address,
        bytes: usize,
    },
    /// The so many-th recording of an event.
    Record {
        event: usize,
        time: u64,
    },
    Wait {
        event: usize,
        time: u64,
    },
}

/// How often an event was asked to be recorded, and how often it has been.
#[derive(Debug, Default, Clone, Copy)]
struct Recorded {
    asked: u64,
    done: u64,
}

#[derive(Debug)]
struct State {
    host: Host,
    /// In the order of [`Lane`], without libtorch's.
    lanes: [VecDeque<Task>; 3],
    events: Vec<Recorded>,
    chance: u64,
    /// Of all buffers that were asked for.
    buffer_bytes: usize,
}

// SAFETY: addresses of memory that stays until the state goes.
#[allow(unsafe_code)]
unsafe impl Send for State {}

impl State {
    fn chance(&mut self, of: usize) -> usize {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) as usize % of
    }

    /// Does one thing that can be done, if there is one.
    #[allow(unsafe_code)]
    fn step(&mut self) -> bool {
        let can = |lane: &VecDeque<Task>, events: &[Recorded]| match lane.front() {
            None => false,
            Some(Task::Wait { event, time }) => events[*event].done >= *time,
            Some(_) => true,
        };
        let able: Vec<usize> = (0..3).filter(|&i| can(&self.lanes[i], &self.events)).collect();
        if able.is_empty() {
            assert!(self.lanes.iter().all(VecDeque::is_empty), "lanes wait for each other: {:?}", self.lanes);
            return false;
        }
        let lane = able[self.chance(able.len())];
        match self.lanes[lane].pop_front().expect("there is one") {
            Task::Launch(launch) => self.host.launch(&launch).expect("it runs"),
            // SAFETY: memory of this device or of the host, which the caller keeps until it has waited.
            Task::Copy { from, to, bytes } => unsafe {
                std::ptr::copy(from as *const u8, to as *mut u8, bytes);
            },
            Task::Record { event, time } => self.events[event].done = time,
            Task::Wait { .. } => {}
        }
        true
    }

    fn finish(&mut self) {
        while self.step() {}
    }

    fn until(&mut self, event: usize) {
        while self.events[event].done < self.events[event].asked {
            assert!(self.step(), "the event is in a lane");
        }
    }
}

#[derive(Debug, Clone)]
pub(in crate::frame) struct Sim {
    state: Arc<Mutex<State>>,
    capacity: Capacity,
    shares_memory: bool,
}

impl Sim {
    /// `None` where there is no C++ compiler for the kernels.
    pub fn new(seed: u64, shares_memory: bool) -> Option<Self> {
        let (lanes, events) = (Default::default(), Vec::new());
        let state = State { host: Host::new()?, lanes, events, chance: seed, buffer_bytes: 0 };
        let capacity = Capacity { blocks: 1, shared: 99 << 10 };
        Some(Self { state: Arc::new(Mutex::new(state)), capacity, shares_memory })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic before")
    }

    /// Bytes of all buffers that were asked for until now.
    pub fn buffer_bytes(&self) -> usize {
        self.state().buffer_bytes
    }

    fn memory(&self, bytes: usize) -> Result<Memory, MachineError> {
        assert!(bytes > 0);
        Ok(Memory { at: self.allocate(bytes)?, bytes, sim: self.clone() })
    }

    fn ask(&self, lane: Lane, task: Task) {
        self.state().lanes[lane as usize].push_back(task);
    }
}

/// Memory that stays until the device goes, so that nothing that is still to be done can write to somebody else's.
#[derive(Debug)]
pub(in crate::frame) struct Memory {
    at: Address,
    bytes: usize,
    sim: Sim,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // As a driver may.
        self.sim.state().finish();
    }
}

impl DeviceMemory for Memory {
    fn at(&self) -> Address {
        self.at
    }
}

impl HostMemory for Memory {
    #[allow(unsafe_code)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes of the device's, which `self` keeps.
        unsafe { std::slice::from_raw_parts(self.at as *const u8, self.bytes) }
    }

    #[allow(unsafe_code)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; they are nobody else's.
        unsafe { std::slice::from_raw_parts_mut(self.at as *mut u8, self.bytes) }
    }
}

#[derive(Debug)]
pub(in crate::frame) struct Event {
    number: usize,
    sim: Sim,
}

impl Moment for Event {
    fn wait(&self) -> Result<(), MachineError> {
        self.sim.state().until(self.number);
        Ok(())
    }

    fn since(&self, _: &Self) -> Result<f32, MachineError> {
        Err(MachineError { what: "tell the time".into(), reason: "there is no clock".into() })
    }
}

impl Machine for Sim {
    fn allocate(&self, bytes: usize) -> Result<Address, MachineError> {
        self.state().host.allocate(bytes)
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), MachineError> {
        let mut state = self.state();
        // As a copy among the kernels that is waited for: the other lanes need not have done anything.
        while !state.lanes[Lane::Work as usize].is_empty() {
            state.step();
        }
        state.host.upload(to, bytes)
    }

    fn launch(&self, launch: &Launch) -> Result<(), MachineError> {
        self.ask(Lane::Work, Task::Launch(launch.clone()));
        Ok(())
    }
}

impl Device for Sim {
    type Buffer = Memory;
    type Pinned = Memory;
    type Event = Event;
    type Graph = Vec<Launch>;

    fn enter(&self) -> Result<(), MachineError> {
        Ok(())
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn shares_memory(&self) -> bool {
        self.shares_memory
    }

    fn buffer(&self, bytes: usize) -> Result<Memory, MachineError> {
        self.state().buffer_bytes += bytes;
        self.memory(bytes)
    }

    fn pinned(&self, bytes: usize) -> Result<Memory, MachineError> {
        self.memory(bytes)
    }

    fn address_of(&self, pinned: &Memory) -> Result<Address, MachineError> {
        assert!(self.shares_memory, "kernels have memory of their own");
        Ok(pinned.at)
    }

    fn event(&self, _: bool) -> Result<Event, MachineError> {
        let mut state = self.state();
        state.events.push(Recorded::default());
        Ok(Event { number: state.events.len() - 1, sim: self.clone() })
    }

    fn record(&self, lane: Lane, event: &Event) -> Result<(), MachineError> {
        let mut state = self.state();
        let recorded = &mut state.events[event.number];
        recorded.asked += 1;
        let time = recorded.asked;
        match lane {
            // libtorch's processor half has done at once what it was asked for.
            Lane::Libtorch => recorded.done = time,
            Lane::Work | Lane::In | Lane::Out => {
                state.lanes[lane as usize].push_back(Task::Record { event: event.number, time });
            }
        }
        Ok(())
    }

    fn wait_for(&self, lane: Lane, event: &Event) -> Result<(), MachineError> {
        if lane == Lane::Libtorch {
            return event.wait();
        }
        let time = self.state().events[event.number].asked;
        self.ask(lane, Task::Wait { event: event.number, time });
        Ok(())
    }

    fn send(&self, lane: Lane, from: &Memory, part: Range<usize>, to: Address) -> Result<(), MachineError> {
        let (from, bytes) = (HostMemory::bytes(from)[part.clone()].as_ptr() as Address, part.len());
        self.ask(lane, Task::Copy { from, to, bytes });
        Ok(())
    }

    fn fetch(&self, lane: Lane, from: Address, to: &mut Memory, part: Range<usize>) -> Result<(), MachineError> {
        let (to, bytes) = (to.bytes_mut()[part.clone()].as_mut_ptr() as Address, part.len());
        self.ask(lane, Task::Copy { from, to, bytes });
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), MachineError> {
        self.ask(Lane::Work, Task::Copy { from, to, bytes });
        Ok(())
    }

    fn finish(&self) -> Result<(), MachineError> {
        self.state().finish();
        Ok(())
    }

    fn graph(&self, launches: &[Launch]) -> Option<Vec<Launch>> {
        Some(launches.to_vec())
    }

    fn start(&self, graph: &Vec<Launch>) -> Result<(), MachineError> {
        graph.iter().try_for_each(|launch| self.launch(launch))
    }
}
