// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Guest memory as a sparse array of bytes in units of 4, all ones where nothing is.
#[derive(Clone, Default)]
struct Memory {
    words: BTreeMap<u64, u32>,
    /// Entries that "another CPU" changes right before the first compare-and-exchange.
    racing: Option<(u64, u64)>,
}

impl Memory {
    fn word(&self, address: u64) -> u64 {
        u64::from(*self.words.get(&address).unwrap_or(&u32::MAX))
    }
    fn get(&self, address: u64, width: EntryWidth) -> u64 {
        assert_eq!(address % if width == EntryWidth::Four { 4 } else { 8 }, 0);
        match width {
            EntryWidth::Four => self.word(address),
            EntryWidth::Eight => self.word(address) | self.word(address + 4) << 32,
        }
    }
    fn set(&mut self, address: u64, width: EntryWidth, value: u64) {
        self.words.insert(address, value as u32);
        if width == EntryWidth::Eight {
            self.words.insert(address + 4, (value >> 32) as u32);
        }
    }
}

impl GuestMem for Memory {
    type Error = ();
    fn read_entry(&mut self, address: Gpa, width: EntryWidth) -> Result<u64, ()> {
        Ok(self.get(address.0, width))
    }
    fn cmpxchg_entry(
        &mut self,
        at: Gpa,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<bool, ()> {
        if let Some((address, value)) = self.racing.take() {
            self.set(address, width, value);
        }
        let hit = self.get(at.0, width) == old;
        if hit {
            self.set(at.0, width, new);
        }
        Ok(hit)
    }
}

const BASE: Paging = Paging {
    mode: Mode::FourLevel,
    cr3: 0x1000,
    pdptes: [0; 4],
    physical_address_bits: 40,
    write_protect: true,
    page_size_extensions: true,
    pse_36: true,
    page_1g: true,
    execute_disable: true,
    smep: false,
    smap: false,
    protection_keys: false,
    pkru: 0,
};

const READ: Access = Access {
    kind: Kind::Read,
    privilege: Privilege::Supervisor,
};
const WRITE: Access = Access {
    kind: Kind::Write,
    ..READ
};
const FETCH: Access = Access {
    kind: Kind::Fetch,
    ..READ
};
const USER_READ: Access = Access {
    privilege: Privilege::User,
    ..READ
};
const USER_WRITE: Access = Access {
    privilege: Privilege::User,
    ..WRITE
};
const USER_FETCH: Access = Access {
    privilege: Privilege::User,
    ..FETCH
};

/// A linear address whose indices are 1, 2, 3 and 4 from the root down.
const GVA: Gva = Gva((1 << 39) | (2 << 30) | (3 << 21) | (4 << 12) | 0x567);

/// 4-level tables at 0x1000, 0x2000, 0x3000 and 0x4000 that map [`GVA`] to 0xabc000.
fn four_level(leaf_bits: u64) -> Memory {
    let mut mem = Memory::default();
    mem.set(0x1000 + 8, EntryWidth::Eight, 0x2000 | 7);
    mem.set(0x2000 + 16, EntryWidth::Eight, 0x3000 | 7);
    mem.set(0x3000 + 24, EntryWidth::Eight, 0x4000 | 7);
    mem.set(0x4000 + 32, EntryWidth::Eight, 0xab_c000 | leaf_bits);
    mem
}

fn code(mem: &Memory, paging: Paging, access: Access) -> Option<u32> {
    match walk(&mut mem.clone(), &paging, GVA, access) {
        Ok(_) => None,
        Err(WalkError::Fault(fault)) => {
            assert_eq!(fault.vector, 14);
            fault.error_code
        }
        Err(WalkError::Mem(())) => panic!("memory error"),
    }
}

#[test]
fn paging_off_is_identity_of_32_bits() {
    let paging = Paging {
        mode: Mode::Off,
        ..BASE
    };
    let t = translate(
        &mut Memory::default(),
        &paging,
        Gva(0x1_2345_6789),
        USER_WRITE,
    )
    .unwrap();
    assert_eq!((t.gpa, t.updates().len()), (Gpa(0x2345_6789), 0));
}

#[test]
fn four_levels_are_walked_and_flags_set() {
    let mut mem = four_level(7);
    let t = translate(&mut mem, &BASE, GVA, WRITE).unwrap();
    assert_eq!(
        (t.gpa, t.page_shift, t.is_user, t.is_writable),
        (Gpa(0xab_c567), 12, true, true)
    );
    assert_eq!(t.updates().len(), 4);
    assert_eq!(mem.get(0x1008, EntryWidth::Eight), 0x2027);
    assert_eq!(mem.get(0x4020, EntryWidth::Eight), 0xab_c067);
    assert!(translate(&mut mem, &BASE, GVA, WRITE)
        .unwrap()
        .updates()
        .is_empty());
}

#[test]
fn read_sets_accessed_but_not_dirty() {
    let mut mem = four_level(7);
    translate(&mut mem, &BASE, GVA, READ).unwrap();
    assert_eq!(mem.get(0x4020, EntryWidth::Eight), 0xab_c027);
}

#[test]
fn fifth_level_is_walked() {
    let mut mem = four_level(7);
    mem.set(0x9000 + 8 * 5, EntryWidth::Eight, 0x1000 | 7);
    let paging = Paging {
        mode: Mode::FiveLevel,
        cr3: 0x9000,
        ..BASE
    };
    let t = translate(&mut mem, &paging, Gva(GVA.0 | 5 << 48), READ).unwrap();
    assert_eq!((t.gpa, t.updates().len()), (Gpa(0xab_c567), 5));
}

#[test]
fn cr3_low_and_high_bits_are_not_part_of_the_root() {
    let paging = Paging {
        cr3: 0x1018 | 1 << 63 | 1 << 61,
        ..BASE
    };
    assert!(walk(&mut four_level(7), &paging, GVA, READ).is_ok());
}

#[test]
fn huge_pages_end_the_walk_early() {
    let mut mem = four_level(7);
    mem.set(0x3000 + 24, EntryWidth::Eight, 0x4020_0000 | 0x1087);
    let t = walk(&mut mem, &BASE, GVA, READ).unwrap();
    assert_eq!((t.gpa, t.page_shift), (Gpa(0x4020_4567), 21));
    mem.set(0x2000 + 16, EntryWidth::Eight, 0x4000_0000 | 0x1087);
    let t = walk(&mut mem, &BASE, GVA, READ).unwrap();
    assert_eq!((t.gpa, t.page_shift), (Gpa(0x4060_4567), 30));
    assert_eq!(
        code(
            &mem,
            Paging {
                page_1g: false,
                ..BASE
            },
            READ
        ),
        Some(9)
    );
}

#[test]
fn absent_entry_faults_with_p_clear_at_each_level() {
    for (address, bits) in [
        (0x1008, 0x2000),
        (0x2010, 0x3000),
        (0x3018, 0x4000),
        (0x4020, 0),
    ] {
        let mut mem = four_level(7);
        mem.set(address, EntryWidth::Eight, bits);
        assert_eq!(code(&mem, BASE, READ), Some(0));
        assert_eq!(
            code(&mem, BASE, USER_WRITE),
            Some(pf_error::WR | pf_error::US)
        );
        assert_eq!(code(&mem, BASE, FETCH), Some(pf_error::ID));
        let fault = walk(&mut mem, &BASE, GVA, READ).unwrap_err();
        assert!(matches!(fault, WalkError::Fault(f) if f.payload == Some(GVA.0)));
    }
}

#[test]
fn reserved_address_bit_faults_with_rsvd() {
    for (address, bits) in [
        (0x1008, 0x2007),
        (0x2010, 0x3007),
        (0x3018, 0x4007),
        (0x4020, 7),
    ] {
        for bit in [40, 51] {
            let mut mem = four_level(7);
            mem.set(address, EntryWidth::Eight, bits | 1 << bit);
            assert_eq!(
                code(&mem, BASE, WRITE),
                Some(pf_error::P | pf_error::WR | pf_error::RSVD)
            );
        }
        let mut mem = four_level(7);
        mem.set(address, EntryWidth::Eight, bits | 1 << 52 | 1 << 62);
        assert_ne!(code(&mem, BASE, READ), Some(9), "bits 62:52 are ignored");
    }
}

#[test]
fn execute_disable_bit_is_reserved_without_nxe_and_forbids_fetch_with_it() {
    let mem = four_level(7 | 1 << 63);
    let no_nxe = Paging {
        execute_disable: false,
        ..BASE
    };
    assert_eq!(code(&mem, no_nxe, READ), Some(9));
    assert_eq!(code(&mem, BASE, READ), None);
    assert_eq!(code(&mem, BASE, FETCH), Some(pf_error::P | pf_error::ID));
    assert_eq!(
        code(&mem, BASE, USER_FETCH),
        Some(pf_error::P | pf_error::ID | pf_error::US)
    );
}

#[test]
fn page_size_bit_is_reserved_in_pml4e() {
    let mut mem = four_level(7);
    mem.set(0x1008, EntryWidth::Eight, 0x2087);
    assert_eq!(code(&mem, BASE, READ), Some(9));
}

#[test]
fn user_mode_needs_user_pages_at_every_level() {
    for (address, bits) in [
        (0x1008, 0x2003),
        (0x2010, 0x3003),
        (0x3018, 0x4003),
        (0x4020, 3),
    ] {
        let mut mem = four_level(7);
        mem.set(address, EntryWidth::Eight, bits);
        assert_eq!(
            code(&mem, BASE, USER_READ),
            Some(pf_error::P | pf_error::US)
        );
        assert_eq!(code(&mem, BASE, READ), None);
    }
}

#[test]
fn write_protect_binds_the_supervisor_only_with_wp() {
    let no_wp = Paging {
        write_protect: false,
        ..BASE
    };
    let mem = four_level(5);
    assert_eq!(code(&mem, BASE, WRITE), Some(pf_error::P | pf_error::WR));
    assert_eq!(code(&mem, no_wp, WRITE), None);
    let user = Some(pf_error::P | pf_error::WR | pf_error::US);
    assert_eq!(code(&mem, no_wp, USER_WRITE), user);
}

#[test]
fn smep_forbids_supervisor_fetch_from_user_pages() {
    let smep = Paging {
        smep: true,
        execute_disable: false,
        ..BASE
    };
    assert_eq!(
        code(&four_level(7), smep, FETCH),
        Some(pf_error::P | pf_error::ID)
    );
    assert_eq!(code(&four_level(7), smep, USER_FETCH), None);
    assert_eq!(code(&four_level(3), smep, FETCH), None);
    assert_eq!(
        code(
            &four_level(7),
            Paging {
                smep: false,
                ..smep
            },
            FETCH
        ),
        None
    );
}

#[test]
fn smap_forbids_supervisor_data_on_user_pages_unless_ac() {
    let smap = Paging { smap: true, ..BASE };
    let as_ac = |a: Access| Access {
        privilege: Privilege::SupervisorAc,
        ..a
    };
    let implicit = |a: Access| Access {
        privilege: Privilege::Implicit,
        ..a
    };
    assert_eq!(code(&four_level(7), smap, READ), Some(1));
    assert_eq!(code(&four_level(7), smap, WRITE), Some(3));
    assert_eq!(code(&four_level(7), smap, implicit(READ)), Some(1));
    assert_eq!(code(&four_level(7), smap, as_ac(READ)), None);
    assert_eq!(code(&four_level(7), smap, as_ac(WRITE)), None);
    assert_eq!(
        code(&four_level(5), smap, as_ac(WRITE)),
        Some(3),
        "AC does not lift WP"
    );
    assert_eq!(code(&four_level(7), smap, FETCH), None);
    assert_eq!(code(&four_level(3), smap, READ), None);
}

#[test]
fn protection_keys_bind_data_accesses_to_user_pages() {
    let with = |pkru| Paging {
        protection_keys: true,
        pkru,
        ..BASE
    };
    let keyed = |bits: u64| four_level(bits | 9 << 59);
    let (ad, wd) = (1 << 18, 2 << 18);
    let pk = pf_error::P | pf_error::PK;
    assert_eq!(code(&keyed(7), with(ad), READ), Some(pk));
    assert_eq!(
        code(&keyed(7), with(ad), USER_READ),
        Some(pk | pf_error::US)
    );
    assert_eq!(code(&keyed(7), with(ad), FETCH), None);
    assert_eq!(code(&keyed(3), with(ad), READ), None, "a supervisor page");
    assert_eq!(code(&keyed(7), with(wd), READ), None);
    assert_eq!(code(&keyed(7), with(wd), WRITE), Some(pk | pf_error::WR));
    assert_eq!(
        code(
            &keyed(7),
            Paging {
                write_protect: false,
                ..with(wd)
            },
            WRITE
        ),
        None
    );
    assert_eq!(
        code(&keyed(7), with(!(3 << 18)), USER_WRITE),
        None,
        "another key"
    );
    assert_eq!(
        code(
            &keyed(7),
            Paging {
                protection_keys: false,
                ..with(ad)
            },
            READ
        ),
        None
    );
}

#[test]
fn pae_starts_at_the_register_and_reserves_high_bits() {
    let mut mem = Memory::default();
    mem.set(0x3000 + 24, EntryWidth::Eight, 0x4000 | 7);
    mem.set(0x4000 + 32, EntryWidth::Eight, 0xab_c007);
    let pae = Paging {
        mode: Mode::Pae,
        pdptes: [0, 0, 0x3001, 0],
        ..BASE
    };
    let gva = Gva(GVA.0 & 0xffff_ffff);
    let t = walk(&mut mem, &pae, gva, READ).unwrap();
    assert_eq!((t.gpa, t.updates().len()), (Gpa(0xab_c567), 2));
    assert_eq!(
        code(
            &mem,
            Paging {
                pdptes: [0; 4],
                ..pae
            },
            READ
        ),
        Some(0)
    );
    mem.set(0x4020, EntryWidth::Eight, 0xab_c007 | 1 << 52);
    assert_eq!(code(&mem, pae, READ), Some(9));
}

#[test]
fn pdptes_with_reserved_bits_are_refused_when_present() {
    let with = |pdpte| pdptes_are_valid(&[0, 0, pdpte, 0], 40);
    assert!(with(0x3001) && with(0x1e6) && with(0xe19));
    for bit in [1, 2, 5, 6, 7, 8, 40, 52, 63] {
        assert!(!with(1 | 1 << bit), "bit {bit}");
    }
}

#[test]
fn bits32_walks_two_levels_of_four_byte_entries() {
    let mut mem = Memory::default();
    let gva = Gva((5 << 22) | (6 << 12) | 0x123);
    mem.set(0x1000 + 20, EntryWidth::Four, 0x2007);
    mem.set(0x2000 + 24, EntryWidth::Four, 0xffff_f007);
    let paging = Paging {
        mode: Mode::Bits32,
        ..BASE
    };
    let t = translate(&mut mem, &paging, gva, WRITE).unwrap();
    assert_eq!((t.gpa, t.width), (Gpa(0xffff_f123), EntryWidth::Four));
    assert_eq!(mem.get(0x2018, EntryWidth::Four), 0xffff_f067);
}

#[test]
fn four_mib_page_takes_address_bits_from_pse_36() {
    let gva = Gva((5 << 22) | 0x12_3456);
    let walk_of = |entry: u64, paging: Paging| {
        let mut mem = Memory::default();
        mem.set(0x1014, EntryWidth::Four, entry);
        mem.set(0x0080_0000 + 0x48c, EntryWidth::Four, 0x7007);
        match walk(
            &mut mem,
            &Paging {
                mode: Mode::Bits32,
                ..paging
            },
            gva,
            READ,
        ) {
            Ok(t) => Ok(t.gpa.0),
            Err(WalkError::Fault(fault)) => Err(fault.error_code),
            Err(WalkError::Mem(())) => unreachable!(),
        }
    };
    assert_eq!(walk_of(0x0080_0087, BASE), Ok(0x0092_3456));
    assert_eq!(walk_of(0x0080_0087 | 0xff << 13, BASE), Ok(0xff_0092_3456));
    assert_eq!(walk_of(0x0080_0087 | 1 << 21, BASE), Err(Some(9)));
    let narrow = Paging {
        physical_address_bits: 36,
        ..BASE
    };
    assert_eq!(walk_of(0x0080_0087 | 0xf << 13, narrow), Ok(0xf_0092_3456));
    assert_eq!(walk_of(0x0080_0087 | 0x10 << 13, narrow), Err(Some(9)));
    let no_pse_36 = Paging {
        pse_36: false,
        ..BASE
    };
    assert_eq!(walk_of(0x0080_0087 | 1 << 13, no_pse_36), Err(Some(9)));
    let no_pse = Paging {
        page_size_extensions: false,
        ..BASE
    };
    assert_eq!(walk_of(0x0080_0087, no_pse), Ok(0x7456));
}

#[test]
fn entry_changed_under_the_walk_restarts_it() {
    let mut mem = four_level(7);
    mem.racing = Some((0x4020, 0x77_7007));
    let t = translate(&mut mem, &BASE, GVA, WRITE).unwrap();
    assert_eq!(t.gpa, Gpa(0x77_7567));
    assert_eq!(mem.get(0x4020, EntryWidth::Eight), 0x77_7067);
}

/// What the model answers: an error code, or address and number of updates.
type Answer = Result<(u64, usize), u32>;

/// The entries of the walk as the SDM's figures 5-2 to 5-12 have them, until a leaf, an absent or
/// a malformed one; an independent rewrite with mode-specific constants.
struct Model<'a> {
    mem: &'a Memory,
    p: Paging,
    access: Access,
}

impl Model<'_> {
    fn base_code(&self) -> u32 {
        let w = matches!(self.access.kind, Kind::Write) as u32;
        let u = matches!(self.access.privilege, Privilege::User) as u32;
        let nx = self.p.execute_disable && self.p.mode != Mode::Bits32;
        let i = (matches!(self.access.kind, Kind::Fetch) && (nx || self.p.smep)) as u32;
        w << 1 | u << 2 | i << 4
    }

    fn run(&self, gva: u64) -> Answer {
        let maxphy = 1_u64 << self.p.physical_address_bits;
        let low32 = gva & 0xffff_ffff;
        // (shift of the index, bits of the index, shift of a leaf if any allowed)
        let (mut table, shifts): (u64, &[u32]) = match self.p.mode {
            Mode::Off => return Ok((low32, 0)),
            Mode::Bits32 => (self.p.cr3 & 0xffff_f000, &[22, 12]),
            Mode::Pae => {
                let pdpte = self.p.pdptes[(low32 >> 30) as usize];
                if pdpte % 2 == 0 {
                    return Err(self.base_code());
                }
                (pdpte % maxphy & !0xfff, &[21, 12])
            }
            Mode::FourLevel => (self.p.cr3 % maxphy & !0xfff, &[39, 30, 21, 12]),
            Mode::FiveLevel => (self.p.cr3 % maxphy & !0xfff, &[48, 39, 30, 21, 12]),
        };
        let mut path = vec![];
        for &shift in shifts {
            let (count, size) = if self.p.mode == Mode::Bits32 {
                (1024, 4)
            } else {
                (512, 8)
            };
            let address = table + (gva >> shift) % count * size;
            let entry = if size == 4 {
                self.mem.word(address)
            } else {
                self.mem.word(address) + (self.mem.word(address + 4) << 32)
            };
            if entry % 2 == 0 {
                return Err(self.base_code());
            }
            path.push(entry);
            let ps = entry >> 7 & 1 == 1;
            let leaf = shift == 12
                || ps
                    && match shift {
                        22 => self.p.page_size_extensions,
                        21 | 30 => true,
                        _ => false,
                    };
            if self.malformed(entry, shift, leaf) {
                return Err(self.base_code() | 9);
            }
            if leaf {
                return self.judge(&path, shift, gva, maxphy);
            }
            table = if size == 4 {
                entry & 0xffff_f000
            } else {
                entry % maxphy & !0xfff
            };
        }
        unreachable!()
    }

    fn malformed(&self, entry: u64, shift: u32, leaf: bool) -> bool {
        let bit = |n: u32| entry >> n & 1 == 1;
        if self.p.mode == Mode::Bits32 {
            let m = if self.p.pse_36 {
                u32::from(self.p.physical_address_bits).min(40)
            } else {
                32
            };
            return leaf && shift == 22 && (m - 19..=21).any(bit);
        }
        let top = if self.p.mode == Mode::Pae { 62 } else { 51 };
        (u32::from(self.p.physical_address_bits)..=top).any(bit)
            || bit(63) && !self.p.execute_disable
            || bit(7) && (shift >= 39 || shift == 30 && !self.p.page_1g)
            || leaf && shift > 12 && (13..shift).any(bit)
    }

    fn judge(&self, path: &[u64], shift: u32, gva: u64, maxphy: u64) -> Answer {
        use Privilege::*;
        let leaf = *path.last().unwrap();
        let rw = path.iter().all(|e| e & 2 != 0);
        let user_page = path.iter().all(|e| e & 4 != 0);
        let xd = self.p.mode != Mode::Bits32
            && self.p.execute_disable
            && path.iter().any(|e| e >> 63 == 1);
        let (kind, who) = (self.access.kind, self.access.privilege);
        let smap_ok = !self.p.smap || who == SupervisorAc;
        let ok = match (who == User, user_page, kind) {
            (true, false, _) => false,
            (true, true, Kind::Read) => true,
            (true, true, Kind::Write) => rw,
            (_, true, Kind::Fetch) if who != User => !self.p.smep && !xd,
            (_, _, Kind::Fetch) => !xd,
            (false, false, Kind::Read) => true,
            (false, false, Kind::Write) => rw || !self.p.write_protect,
            (false, true, Kind::Read) => smap_ok,
            (false, true, Kind::Write) => smap_ok && (rw || !self.p.write_protect),
        };
        let long = matches!(self.p.mode, Mode::FourLevel | Mode::FiveLevel);
        let key = (leaf >> 59 & 15) as u32;
        let (ad, wd) = (
            self.p.pkru >> (2 * key) & 1 == 1,
            self.p.pkru >> (2 * key + 1) & 1 == 1,
        );
        let wd_counts = kind == Kind::Write && (self.p.write_protect || who == User);
        let pk = long
            && self.p.protection_keys
            && user_page
            && kind != Kind::Fetch
            && (ad || wd && wd_counts);
        if !ok || pk {
            return Err(self.base_code() | 1 | (pk as u32) << 5);
        }
        let page = match shift {
            22 => (leaf & 0xffc0_0000) + ((leaf >> 13 & 0xff) << 32),
            _ if self.p.mode == Mode::Bits32 => leaf & 0xffff_f000,
            _ => leaf % maxphy >> shift << shift,
        };
        let stale = path.iter().enumerate().filter(|&(i, e)| {
            let needs_dirty = i + 1 == path.len() && kind == Kind::Write;
            e & 0x20 == 0 || needs_dirty && e & 0x40 == 0
        });
        Ok((page + gva % (1 << shift), stale.count()))
    }
}

/// Entries that mostly lead somewhere: few frames, mostly present, few odd bits.
fn any_entry() -> impl Strategy<Value = u64> {
    let odd = prop_oneof![
        8 => Just(0_u64),
        1 => (0_u32..64).prop_map(|bit| 1 << bit),
        1 => (0_u32..16).prop_map(|key| u64::from(key) << 59),
    ];
    (0_u64..8, 0_u64..0x80, odd, 0_u8..8, 0_u8..8).prop_map(|(frame, low, odd, rare, large)| {
        let present = if rare == 0 { 0 } else { 7 };
        let large = if large == 0 { 0x80 } else { 0 };
        (frame << 12)
            | (low & if rare < 3 { 0x7f } else { 0x78 })
            | large
            | present & !u64::from(rare == 1) << 1
            | odd
    })
}

fn any_paging() -> impl Strategy<Value = Paging> {
    let mode = prop_oneof![
        Just(Mode::Bits32),
        Just(Mode::Pae),
        Just(Mode::FourLevel),
        Just(Mode::FiveLevel)
    ];
    let flags = any::<[bool; 8]>();
    (mode, flags, 0_u64..8, any_entry(), 32_u8..=52, any::<u32>()).prop_map(
        |(mode, f, root, pdpte, physical_address_bits, pkru)| Paging {
            mode,
            cr3: root << 12,
            pdptes: [pdpte; 4],
            physical_address_bits,
            write_protect: f[0],
            page_size_extensions: f[1],
            pse_36: f[2],
            page_1g: f[3],
            execute_disable: f[4],
            smep: f[5],
            smap: f[6],
            protection_keys: f[7],
            pkru,
        },
    )
}

fn any_access() -> impl Strategy<Value = Access> {
    let kind = prop_oneof![Just(Kind::Read), Just(Kind::Write), Just(Kind::Fetch)];
    let privilege = prop_oneof![
        Just(Privilege::User),
        Just(Privilege::Supervisor),
        Just(Privilege::SupervisorAc),
        Just(Privilege::Implicit)
    ];
    (kind, privilege).prop_map(|(kind, privilege)| Access { kind, privilege })
}

/// The bits of a linear address that choose among the first eight entries of each table.
fn reachable(mode: Mode) -> u64 {
    match mode {
        Mode::Off => u64::MAX,
        Mode::Bits32 => 0xfff | 7 << 12 | 7 << 22,
        Mode::Pae => 0xfff | 7 << 12 | 7 << 21 | 3 << 30,
        Mode::FourLevel | Mode::FiveLevel => {
            0xfff | 7 << 12 | 7 << 21 | 7 << 30 | 7 << 39 | 7 << 48
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn walk_agrees_with_the_naive_model(
        paging in any_paging(), access in any_access(),
        entries in proptest::collection::vec(any_entry(), 64),
        gva in any::<u64>(),
    ) {
        // Eight tables of eight entries; indices of the address are folded into those.
        let mut mem = Memory::default();
        let (width, size) = match paging.mode {
            Mode::Bits32 => (EntryWidth::Four, 4),
            _ => (EntryWidth::Eight, 8),
        };
        for (i, entry) in entries.iter().enumerate() {
            let i = i as u64;
            mem.set(i / 8 * 4096 + i % 8 * size, width, *entry);
        }
        let gva = gva & reachable(paging.mode);
        let want = Model { mem: &mem, p: paging, access }.run(gva);
        let got = match walk(&mut mem.clone(), &paging, Gva(gva), access) {
            Ok(t) => Ok((t.gpa.0, t.updates().len())),
            Err(WalkError::Fault(fault)) => Err(fault.error_code.unwrap()),
            Err(WalkError::Mem(())) => panic!("memory error"),
        };
        prop_assert_eq!(got, want);
    }

    #[test]
    fn walk_never_panics_and_committed_walk_is_settled(
        paging in any_paging(), access in any_access(), gva in any::<u64>(),
        entries in proptest::collection::vec(any_entry(), 64), wild in any::<u64>(),
        width_bits in any::<u8>(),
    ) {
        let mut mem = Memory::default();
        for (i, entry) in entries.iter().enumerate() {
            let i = i as u64;
            mem.set(i / 8 * 4096 + i % 8 * 8, EntryWidth::Eight, *entry);
        }
        let odd = Paging { cr3: wild, pdptes: [wild; 4], physical_address_bits: width_bits, ..paging };
        let _ = walk(&mut mem.clone(), &odd, Gva(gva), access);
        if translate(&mut mem, &paging, Gva(gva & reachable(paging.mode)), access).is_ok() {
            let again = walk(&mut mem, &paging, Gva(gva & reachable(paging.mode)), access);
            prop_assert_eq!(again.unwrap().updates().len(), 0);
        }
    }
}
