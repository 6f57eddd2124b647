//! What is in a users file, what is wrong with one, and editing it.

use proptest::prelude::*;

use super::*;

const FILE: &str = "\
# the office
alice:example.com:MD5:0123456789abcdef0123456789ABCDEF

alice:example.com:limits:calls=2 allow=+49,0
bob:example.com:plain:pass:with:colons 
carol:example.com:00000000000000000000000000000000
dave:[2001:db8::1]:SHA-256:0000000000000000000000000000000000000000000000000000000000000000
";

fn parse(text: &str) -> Result<Users, UsersError> {
    Users::parse(text, "users")
}

#[test]
fn each_kind_of_line() {
    let users = parse(FILE).unwrap();
    let alice = users.find("example.com", "alice").unwrap();
    assert_eq!(
        alice.ha1(DigestAlgorithm::Md5),
        Some("0123456789abcdef0123456789abcdef"),
        "lower case, as the response is computed"
    );
    assert_eq!(alice.ha1(DigestAlgorithm::Sha256), None);
    assert_eq!((alice.calls, alice.line), (Some(2), 2));
    assert!(alice.may_call("+4930123") && alice.may_call("0") && !alice.may_call("1") && !alice.may_call(""));
    let bob = users.find("example.com", "bob").unwrap();
    assert_eq!(bob.algorithms().count(), 3);
    assert_eq!(
        bob.ha1(DigestAlgorithm::Sha256).unwrap(),
        ha1(DigestAlgorithm::Sha256, "bob", "example.com", "pass:with:colons ")
    );
    assert!(bob.may_call("anybody") && bob.calls.is_none());
    assert!(users.find("example.com", "carol").is_some() && users.find("[2001:db8::1]", "dave").is_some());
    assert_eq!((users.count("example.com"), users.iter().count()), (3, 4));
    assert!(users.find("example.com", "Alice").is_none() && users.find("example.org", "alice").is_none());
    assert!(!format!("{alice:?}").contains("0123"), "no hash in a log");
}

/// RFC 7616 section 3.9.1: the user and password of its example, whose MD5 and SHA-256 responses it prints.
#[test]
fn ha1_is_that_of_the_rfc() {
    let response = |algorithm, hash: &dyn Fn(&str) -> String| {
        let ha1 = ha1(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life");
        let ha2 = hash("GET:/dir/index.html");
        hash(&format!(
            "{ha1}:7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v:00000001:f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ:auth:{ha2}"
        ))
    };
    assert_eq!(
        response(DigestAlgorithm::Md5, &|text| hex(&Md5::digest(text))),
        "8ca523f5e9506fed4657c9700eebdbec"
    );
    assert_eq!(
        response(DigestAlgorithm::Sha256, &|text| hex(&Sha256::digest(text))),
        "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    );
    // The 512-bit hash, shortened as FIPS 180-4 says, of nothing.
    assert_eq!(
        hex(&Sha512_256::digest("")),
        "c672b8d1ef56ed28ab87c3622c5114069bdd3ad7b8f9737498d0c01ecef0967a"
    );
}

#[test]
#[rustfmt::skip]
fn a_bad_line_is_named_and_no_secret_is() {
    let ha1 = "0123456789abcdef0123456789abcdef";
    for (text, line, message, remedy) in [
        ("alice".into(), 1, "not USER:REALM:ALGORITHM:SECRET", "sipnat user add"),
        ("alice:example.com".into(), 1, "not USER:REALM:ALGORITHM:SECRET", "write it like"),
        (format!("# x\nalice:example.com:MD5:{}", &ha1[1..]), 2, "not 32 hexadecimal digits (it has 31", "plain"),
        (format!("a:b:SHA-256:{ha1}"), 1, "not 64 hexadecimal digits", "sipnat user add"),
        ("a:b:secret".into(), 1, "not 32 hexadecimal digits", "plain"),
        ("a:b:secret:with colon".into(), 1, "no digest algorithm", "SHA-512-256"),
        ("a:b:plain:".into(), 1, "is empty", "behind `plain:`"),
        (format!(":b:{ha1}"), 1, "is no user", "without blanks"),
        (format!("a b:c:{ha1}"), 1, "is no user", "without blanks"),
        (format!("a:B.com:{ha1}"), 1, "upper-case", "made anew"),
        (format!("a:b:{ha1}\na:b:md5:{ha1}"), 2, "a password for MD5 already (first named in line 1)", "keep one"),
        (format!("a:b:{ha1}\na:b:plain:x"), 2, "a password already", "keep one"),
        ("a:b:plain:x\na:b:limits:calls=x".into(), 2, "no number of calls", "calls=2"),
        ("a:b:plain:x\na:b:limits:calls=1 calls=2".into(), 2, "there twice", "calls=2"),
        ("a:b:plain:x\na:b:limits:allow=1,,2".into(), 2, "no limit", "allow=+49,0"),
        ("a:b:plain:x\na:b:limits:".into(), 2, "no limit behind", "remove the line"),
        ("a:b:plain:x\na:b:limits:calls=1\na:b:limits:calls=1".into(), 3, "limits already", "keep one"),
        ("\na:b:limits:calls=1".into(), 2, "limits but no password", "sipnat user add FILE a@b"),
    ] as [(String, usize, &str, &str); _] {
        let error = parse(&text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("users:{line}: ")), "{text}: {shown}");
        assert!(error.message.contains(message) && error.remedy.contains(remedy), "{text}: {shown}");
        assert!(!shown.contains("secret") && !shown.contains(ha1), "{shown}");
    }
}

fn edited(text: &str) -> UsersText {
    UsersText::parse(text.into(), "users").unwrap()
}

#[test]
fn editing_leaves_other_lines_alone() {
    let mut text = edited(FILE.trim_end());
    assert!(!text.set("erin", "example.com", "pw", Secret::Plain, None, &[]).unwrap());
    assert_eq!(text.text(), format!("{FILE}erin:example.com:plain:pw\n"));
    assert!(
        text.set("alice", "example.com", "new", Secret::Hashed, None, &[])
            .unwrap()
    );
    let users = text.users();
    let alice = users.find("example.com", "alice").unwrap();
    assert_eq!(alice.calls, Some(2), "limits stay unless new ones are given");
    assert_eq!(
        alice.ha1(DigestAlgorithm::Sha512_256).unwrap(),
        ha1(DigestAlgorithm::Sha512_256, "alice", "example.com", "new")
    );
    assert!(text.text().starts_with("# the office\n\nalice:example.com:limits:"));
    assert!(
        text.set("alice", "example.com", "new", Secret::Hashed, Some(0), &["+1".into()])
            .unwrap()
    );
    let users = text.users();
    let alice = users.find("example.com", "alice").unwrap();
    assert_eq!((alice.calls, alice.may_call("+49")), (Some(0), false));
    assert!(text.remove("alice", "example.com") && !text.remove("alice", "example.com"));
    assert!(!text.text().contains("alice") && text.text().starts_with("# the office\n"));
    assert_eq!(text.only_realm(), None);
    assert_eq!(edited("a:b:plain:x\nc:b:plain:x").only_realm(), Some("b".into()));
}

#[test]
fn what_cannot_be_written_is_refused_and_changes_nothing() {
    let mut text = edited(FILE);
    for (user, realm, password, allow, part) in [
        ("a:b", "example.com", "x", "", "without colons"),
        ("#a", "example.com", "x", "", "begin with #"),
        ("", "example.com", "x", "", "no user"),
        ("a", "Example.com", "x", "", "lower case"),
        ("a", "example.com", "", "", "empty"),
        ("a", "example.com", "x\ny", "", "control"),
        ("a", "example.com", "x", "1 2", "blanks"),
    ] {
        let allow: Vec<String> = [allow]
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.to_string())
            .collect();
        let error = text
            .set(user, realm, password, Secret::Plain, None, &allow)
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(text.text(), FILE);
    }
}

#[test]
fn a_file_is_replaced_as_a_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = std::env::temp_dir().join(format!("sipnat-users-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("users");
    let mut text = UsersText::load(&path).unwrap();
    text.set("a", "b", "x", Secret::Hashed, None, &[]).unwrap();
    text.save(&path).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600, "hashes are for the owner only");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut text = UsersText::load(&link).unwrap();
    assert!(text.remove("a", "b"));
    text.save(&link).unwrap();
    assert_eq!(
        (std::fs::read_to_string(&path).unwrap().as_str(), mode(&path)),
        ("", 0o640)
    );
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(
        std::fs::read_dir(&directory).unwrap().count(),
        2,
        "nothing is left behind"
    );
    std::fs::write(&path, b"a:b:plain:x\n\xff").unwrap();
    let error = UsersText::load(&path).unwrap_err();
    assert!(error.line == Some(2) && error.message.contains("UTF-8"), "{error}");
    let error = Users::load(&directory.join("none")).unwrap_err().to_string();
    assert!(
        error.contains("none: cannot read the users file") && error.contains("sipnat user add"),
        "{error}"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

proptest! {
    #[test]
    fn random_text_is_users_or_an_error(text in "\\PC{0,80}", lines in prop::collection::vec("[a-c]{0,2}:[a-c]{0,2}:(MD5|plain|limits)?:?[0-9a-f=,]{0,33}", 0..4)) {
        let _ = parse(&text);
        if let Err(error) = parse(&lines.join("\n")) {
            prop_assert!(error.line.is_some() && !error.remedy.is_empty());
        }
    }

    /// What was set is found, whatever was there before and whatever comes behind.
    #[test]
    fn what_is_set_is_found(
        user in "[!-9;-?A-~]{1,8}",
        realm in "[a-z0-9.-]{1,12}",
        passwords in ("[ -~é]{1,12}", "[ -~é]{1,12}"),
        plain: (bool, bool),
        calls in prop::option::of(0u32..9),
        allow in prop::collection::vec("[+0-9]{1,4}", 0..3),
    ) {
        prop_assume!(!user.starts_with('#') && !user.contains('"'));
        let secret = |plain| if plain { Secret::Plain } else { Secret::Hashed };
        let mut text = edited(FILE);
        text.set(&user, &realm, &passwords.0, secret(plain.0), calls, &allow).unwrap();
        prop_assert!(text.set(&user, &realm, &passwords.1, secret(plain.1), None, &[]).unwrap());
        let users = text.users();
        let entry = users.find(&realm, &user).unwrap();
        for algorithm in ALGORITHMS {
            let expected = ha1(algorithm, &user, &realm, &passwords.1);
            prop_assert_eq!(entry.ha1(algorithm), Some(expected.as_str()));
        }
        prop_assert_eq!(entry.calls, calls);
        let found: Vec<&str> = entry.allow.iter().map(|prefix| &**prefix).collect();
        prop_assert_eq!(found, allow);
        prop_assert!(users.find("example.com", "carol").is_some());
    }
}
