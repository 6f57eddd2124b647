use super::*;

const NAME: Name = Name {
    what: "the log",
    key: "log",
};

#[test]
fn a_full_disk_loses_no_whole_line_that_still_fits_the_buffer() {
    let mut lines = Lines::open(&LogTarget::File("/dev/full".into()), NAME).unwrap();
    lines.push(&Some(1)).unwrap();
    assert_eq!(lines.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(lines.buffer, b"1\n");
    lines.buffer.clear();
}

/// A disk with room for so many bytes.
struct Disk {
    room: usize,
    content: Vec<u8>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        self.room -= count;
        self.content.extend(&bytes[..count]);
        if count == 0 {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(count)
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_that_was_cut_is_written_again() {
    let (whole, mut torn) = ("{\"first\":1}\n{\"second\":2}\n".to_owned(), false);
    for room in 0..=whole.len() {
        let mut disk = Disk {
            room,
            content: Vec::new(),
        };
        let mut buffer = whole.clone().into_bytes();
        assert_eq!(
            write_lines(&mut disk, &mut buffer, &mut torn).is_ok(),
            room == whole.len()
        );
        disk.room = usize::MAX;
        write_lines(&mut disk, &mut buffer, &mut torn).unwrap();
        assert!(buffer.is_empty() && !torn);
        let text = String::from_utf8(disk.content).unwrap();
        let mut readable: Vec<&str> = text.lines().filter(|line| line.ends_with('}')).collect();
        // Cut just before its newline, a line is there twice, which readers take for one.
        readable.dedup();
        assert_eq!(readable, whole.lines().collect::<Vec<_>>(), "room for {room}");
    }
}
