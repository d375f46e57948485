package registry

import (
	"cmp"
	"net/netip"
	"slices"
)

// What IANA has given to each RIR: blocks of AS numbers, of IPv4 (/8s) and of IPv6 (/12s). It tells the part of the world of a
// number where no statistics were read. It is wrong of what was transferred to another registry later, and silent on IPv4
// that was given out before there were registries ("legacy" in IANA's list), which is all over the world.

// ianaASNs are the blocks of AS numbers that are not ARIN's, among those below 64496.
var ianaASNs = func() []rirBlock {
	var all []rirBlock
	add := func(rir string, ranges ...[2]uint32) {
		for _, r := range ranges {
			all = append(all, rirBlock{r[0], r[1], rir})
		}
	}
	add("ripencc", [2]uint32{248, 251}, [2]uint32{1101, 1200}, [2]uint32{1267, 1275}, [2]uint32{1877, 1901}, [2]uint32{2043, 2043}, [2]uint32{2047, 2047},
		[2]uint32{2057, 2136}, [2]uint32{2387, 2488}, [2]uint32{2585, 2614}, [2]uint32{2773, 2822}, [2]uint32{2830, 2879}, [2]uint32{3154, 3353},
		[2]uint32{5377, 5631}, [2]uint32{6656, 6911}, [2]uint32{8192, 9215}, [2]uint32{12288, 13311}, [2]uint32{15360, 16383}, [2]uint32{20480, 21503},
		[2]uint32{24576, 25599}, [2]uint32{28672, 29695}, [2]uint32{30720, 31743}, [2]uint32{33792, 35839}, [2]uint32{38912, 39935}, [2]uint32{40960, 45055},
		[2]uint32{47104, 52223}, [2]uint32{56320, 58367}, [2]uint32{59392, 61439}, [2]uint32{61952, 62463}, [2]uint32{196608, 262143})
	add("apnic", [2]uint32{2497, 2528}, [2]uint32{4608, 4864}, [2]uint32{7467, 7722}, [2]uint32{9216, 10239}, [2]uint32{17408, 18431}, [2]uint32{23552, 24575},
		[2]uint32{37888, 38911}, [2]uint32{45056, 46079}, [2]uint32{55296, 56319}, [2]uint32{58368, 59391}, [2]uint32{63488, 64098}, [2]uint32{131072, 196607})
	add("lacnic", [2]uint32{26592, 26623}, [2]uint32{27648, 28671}, [2]uint32{52224, 53247}, [2]uint32{61440, 61951}, [2]uint32{64099, 64197}, [2]uint32{262144, 327679})
	add("afrinic", [2]uint32{36864, 37887}, [2]uint32{327680, 393215})
	add("arin", [2]uint32{393216, 458751})
	slices.SortFunc(all, func(a, b rirBlock) int { return cmp.Compare(a.first, b.first) })
	return all
}()

type rirBlock struct {
	first, last uint32
	rir         string
}

// RIROfASN names the RIR, as its statistics do, to which IANA gave an AS number, or "".
func RIROfASN(a uint32) string {
	if a == 0 || ReservedASN(a) {
		return ""
	}
	i, _ := slices.BinarySearchFunc(ianaASNs, a, func(b rirBlock, a uint32) int { return cmp.Compare(b.last, a) })
	switch {
	case i < len(ianaASNs) && ianaASNs[i].first <= a:
		return ianaASNs[i].rir
	case a < 64198: // what was given out first, and all blocks between the others'
		return "arin"
	}
	return ""
}

// ianaIPv4 is by the first octet.
var ianaIPv4 = func() (of [256]string) {
	for rir, ranges := range map[string][][2]int{
		"apnic": {{1, 1}, {14, 14}, {27, 27}, {36, 36}, {39, 39}, {42, 42}, {49, 49}, {58, 61}, {101, 101}, {103, 103}, {106, 106}, {110, 126},
			{175, 175}, {180, 180}, {182, 183}, {202, 203}, {210, 211}, {218, 223}},
		"ripencc": {{2, 2}, {5, 5}, {31, 31}, {37, 37}, {46, 46}, {62, 62}, {77, 95}, {109, 109}, {176, 176}, {178, 178}, {185, 185}, {193, 195}, {212, 213}, {217, 217}},
		"lacnic":  {{177, 177}, {179, 179}, {181, 181}, {186, 187}, {189, 190}, {200, 201}},
		"afrinic": {{41, 41}, {102, 102}, {105, 105}, {197, 197}},
		"arin":    {{23, 24}, {50, 50}, {63, 76}, {96, 100}, {104, 104}, {107, 108}, {173, 174}, {184, 184}, {199, 199}, {204, 209}, {216, 216}},
	} {
		for _, r := range ranges {
			for i := r[0]; i <= r[1]; i++ {
				of[i] = rir
			}
		}
	}
	return of
}()

// RIROf names the RIR to which IANA gave the space of a prefix no shorter than /8 or /12, or "".
func RIROf(p netip.Prefix) string {
	if a := p.Addr(); a.Is4() {
		if p.Bits() < 8 {
			return ""
		}
		return ianaIPv4[a.As4()[0]]
	}
	if p.Bits() < 12 {
		return ""
	}
	b := p.Addr().As16()
	switch uint16(b[0])<<8 | uint16(b[1]&0xf0) {
	case 0x2400, 0x2410:
		return "apnic"
	case 0x2600, 0x2630:
		return "arin"
	case 0x2800:
		return "lacnic"
	case 0x2a00, 0x2a10:
		return "ripencc"
	case 0x2c00:
		return "afrinic"
	}
	return ""
}
