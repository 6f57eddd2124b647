//! Netstrings (`5:hello,`), in which baresip's ctrl_tcp frames its JSON.

use anyhow::{Context, Result, ensure};

/// Frames a text.
pub fn encode(text: &str) -> Vec<u8> {
    format!("{}:{text},", text.len()).into_bytes()
}

/// Takes the first whole netstring from a buffer, if there is one.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    let Some(colon) = buffer.iter().position(|byte| *byte == b':') else {
        return Ok(None);
    };
    let length = std::str::from_utf8(&buffer[..colon])?
        .parse::<usize>()
        .context("length of a netstring")?;
    let end = colon + 1 + length;
    if buffer.len() <= end {
        return Ok(None);
    }
    ensure!(
        buffer[end] == b',',
        "a netstring ends with {:?} instead of a comma",
        buffer[end]
    );
    let text = buffer[colon + 1..end].to_vec();
    buffer.drain(..=end);
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_out_as_they_went_in() {
        let mut buffer = [encode("one"), encode(""), encode("th")].concat();
        let last = buffer.split_off(buffer.len() - 1);
        assert_eq!(take(&mut buffer).unwrap().unwrap(), b"one");
        assert_eq!(take(&mut buffer).unwrap().unwrap(), b"");
        assert_eq!(take(&mut buffer).unwrap(), None);
        buffer.extend(last);
        assert_eq!(take(&mut buffer).unwrap().unwrap(), b"th");
        assert!(take(&mut b"1:xx".to_vec()).is_err());
    }
}
