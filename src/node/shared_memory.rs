//! Whether there is room for what Fast DDS shares between processes.

/// Where Fast DDS keeps what processes of one machine share.
const FOLDER: &str = "/dev/shm";
/// What a participant has beside its segment: ports, locks.
const EXTRAS: u64 = 2 << 20;

/// That Fast DDS has no room for this process's shared memory, and what to do; `None` where it has, or is not the middleware.
/// It would say so in words of its own and go on over UDP, where large images are lost.
///
/// Before there is a participant: afterwards its own is taken from the room.
pub fn shortage() -> Option<String> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let middleware = variable("RMW_IMPLEMENTATION");
    if !(middleware.is_empty() || middleware.contains("fastrtps")) {
        return None;
    }
    let profile = ["FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"].map(variable);
    let profile = profile.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    let needed = segment_bytes(&profile)? + EXTRAS;
    let room = rustix::fs::statvfs(FOLDER).ok()?;
    let free = room.f_bavail * room.f_frsize;
    (free < needed).then(|| {
        let mib = |bytes: u64| bytes >> 20;
        format!(
            "{FOLDER} has {} MiB left, and Fast DDS's profile asks for {} MiB of it for this process: without it images go \
             over UDP, and large ones are lost; make it larger (docker run --shm-size=1g, or --ipc=host)",
            mib(free),
            mib(needed)
        )
    })
}

/// The largest shared-memory segment that a profile of Fast DDS's asks for.
fn segment_bytes(profile: &str) -> Option<u64> {
    let sizes = profile.split("<segment_size>").skip(1).filter_map(|rest| rest.split('<').next()?.trim().parse().ok());
    sizes.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_segment_of_the_profile_that_is_installed_is_found() {
        let profile = include_str!("../../config/fastdds.xml");
        assert_eq!(segment_bytes(profile), Some(64 << 20));
        assert_eq!(segment_bytes("<segment_size> 12 </segment_size> <segment_size>9</segment_size>"), Some(12));
        assert_eq!(segment_bytes("<dds/>"), None);
    }
}
