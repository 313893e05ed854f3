//! What names may look like: nodes and realms end up in SPIFFE URIs, links in logs and status, interfaces in the kernel.

use toml::de::DeValue;

use super::read::{Wrong, string};

/// Longest name of a node or a link, as a DNS label (RFC 1035 section 2.3.4).
pub const MAX_NAME_BYTES: usize = 63;
/// Longest realm, as a DNS name.
pub const MAX_REALM_BYTES: usize = 253;
/// `IFNAMSIZ` less the terminator, linux/if.h.
const MAX_INTERFACE_BYTES: usize = 15;

/// Says why `name` cannot be a node's name: lower-case letters, digits and inner hyphens, 1 to 63 bytes.
///
/// # Errors
/// The reason, for people.
pub fn check_node(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("a name has 1 to {MAX_NAME_BYTES} characters, this has {}", name.len()));
    }
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(format!("{c:?} is not allowed in a name: lower-case letters, digits and hyphens are"));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err("a name neither begins nor ends with a hyphen".to_owned());
    }
    Ok(())
}

/// Says why `realm` cannot be a realm: names as of [`check_node`], joined by dots.
///
/// # Errors
/// The reason, for people.
pub fn check_realm(realm: &str) -> Result<(), String> {
    if realm.len() > MAX_REALM_BYTES {
        return Err(format!("a realm has at most {MAX_REALM_BYTES} characters, this has {}", realm.len()));
    }
    realm.split('.').try_for_each(check_node).map_err(|e| format!("in each part of a realm: {e}"))
}

/// The SPIFFE URI of a node.
#[must_use]
pub fn spiffe_id(realm: &str, node: &str) -> String {
    format!("spiffe://{realm}/node/{node}")
}

pub(super) fn node(value: &DeValue<'_>) -> Result<String, Wrong> {
    checked(value, check_node, "for example \"station-a\"")
}

pub(super) fn realm(value: &DeValue<'_>) -> Result<String, Wrong> {
    checked(value, check_realm, "for example \"demo.rete\"")
}

pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Wrong> {
    checked(value, check_interface, "a name that `ip link` shows, for example \"eth1\"")
}

fn check_interface(name: &str) -> Result<(), String> {
    // dev_valid_name() in net/core/dev.c
    if name.is_empty() || name.len() > MAX_INTERFACE_BYTES {
        return Err(format!("an interface name has 1 to {MAX_INTERFACE_BYTES} characters, this has {}", name.len()));
    }
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name == "." || name == ".." || name.contains(bad) {
        return Err(format!("{name:?} cannot be an interface name"));
    }
    Ok(())
}

fn checked(value: &DeValue<'_>, check: fn(&str) -> Result<(), String>, hint: &str) -> Result<String, Wrong> {
    let text = string(value)?;
    check(&text).map_err(|e| (e, hint.to_owned()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(check_node("station-a1").is_ok());
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(check_node(bad).is_err(), "{bad}");
        }
        assert!(check_realm("demo.rete").is_ok());
        assert!(check_realm("demo..rete").is_err());
        assert!(check_interface("eth0.5").is_ok());
        assert!(check_interface("a-name-too-long1").is_err());
    }
}
