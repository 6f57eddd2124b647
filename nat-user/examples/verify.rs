use nat_common::maps::Capacity;
use nat_user::dataplane::object;
fn main() {
    let c = Capacity {
        addresses: 1,
        index_buckets: 1 << 15,
        session_buckets: 1 << 16,
        fragment_buckets: 1024,
        hosts: 1024,
        destinations: 16384,
        counting: false,
        block_shift: 6,
    };
    let mut e = object::open(&c, None).unwrap();
    for p in object::PROGRAMS
        .into_iter()
        .filter(|p| std::env::args().nth(1).is_none_or(|a| p.contains(&a)))
    {
        match object::load(&mut e, p) {
            Ok(p2) => println!("{p}: {:?} insns", p2.info().unwrap().verified_instruction_count()),
            Err(err) => {
                let s = format!("{err:#}");
                std::fs::write("/tmp/vlog", &s).unwrap();
                let v: Vec<&str> = s.lines().collect();
                for l in v.iter().take(5) {
                    println!("{l}");
                }
                println!("... {} lines", v.len());
                for l in v.iter().rev().take(70).rev() {
                    println!("{l}");
                }
            }
        }
    }
}
