package bgpsession

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// Codes of NOTIFICATION messages and the subcodes that are sent from here (IANA BGP Error Codes).
const (
	codeHeader = 1
	codeOpen   = 2
	codeUpdate = 3
	codeHold   = 4
	codeFSM    = 5
	codeCease  = 6

	headerNotSynchronized = 1
	headerLength          = 2
	headerType            = 3

	openVersion  = 1
	openPeerAS   = 2
	openID       = 3
	openHoldTime = 6
	openRole     = 11 // RFC 9234 §4.2

	updateAttributeList     = 1
	updateUnknownWellKnown  = 2
	updateOptionalAttribute = 9
	updateNetwork           = 10

	ceasePrefixes  = 1 // RFC 4486
	ceaseShutdown  = 2
	ceaseReset     = 4
	ceaseRejected  = 5
	ceaseCollision = 7
)

var codeNames = map[uint8]string{
	1: "Message Header Error", 2: "OPEN Message Error", 3: "UPDATE Message Error", 4: "Hold Timer Expired",
	5: "Finite State Machine Error", 6: "Cease", 7: "ROUTE-REFRESH Message Error", 8: "Send Hold Timer Expired",
}

var subcodeNames = map[[2]uint8]string{
	{1, 1}: "Connection Not Synchronized", {1, 2}: "Bad Message Length", {1, 3}: "Bad Message Type",
	{2, 1}: "Unsupported Version Number", {2, 2}: "Bad Peer AS", {2, 3}: "Bad BGP Identifier",
	{2, 4}: "Unsupported Optional Parameter", {2, 6}: "Unacceptable Hold Time", {2, 7}: "Unsupported Capability", {2, 11}: "Role Mismatch",
	{3, 1}: "Malformed Attribute List", {3, 2}: "Unrecognized Well-known Attribute", {3, 3}: "Missing Well-known Attribute",
	{3, 4}: "Attribute Flags Error", {3, 5}: "Attribute Length Error", {3, 6}: "Invalid ORIGIN Attribute",
	{3, 8}: "Invalid NEXT_HOP Attribute", {3, 9}: "Optional Attribute Error", {3, 10}: "Invalid Network Field", {3, 11}: "Malformed AS_PATH",
	{5, 1}: "Unexpected Message in OpenSent", {5, 2}: "Unexpected Message in OpenConfirm", {5, 3}: "Unexpected Message in Established",
	{6, 1}: "Maximum Number of Prefixes Reached", {6, 2}: "Administrative Shutdown", {6, 3}: "Peer De-configured",
	{6, 4}: "Administrative Reset", {6, 5}: "Connection Rejected", {6, 6}: "Other Configuration Change",
	{6, 7}: "Connection Collision Resolution", {6, 8}: "Out of Resources", {6, 9}: "Hard Reset", {6, 10}: "BFD Down",
}

// describe puts a NOTIFICATION into words.
func describe(n bgp.Notification) string {
	text := codeNames[n.Code]
	if text == "" {
		text = fmt.Sprintf("code %d", n.Code)
	}
	if name := subcodeNames[[2]uint8{n.Code, n.Subcode}]; name != "" {
		text += ", " + name
	} else if n.Subcode != 0 {
		text += fmt.Sprintf(", subcode %d", n.Subcode)
	}
	// Shutdown Communication (RFC 9003).
	if d := n.Data; n.Code == codeCease && (n.Subcode == ceaseShutdown || n.Subcode == ceaseReset) && len(d) > 1 && int(d[0]) < len(d) {
		text += fmt.Sprintf(": %q", d[1:1+int(d[0])])
	}
	return text
}

// ending says why a session ended: the reason is one of few stable names, for counting.
type ending struct {
	reason string
	text   string
	notify *bgp.Notification // what the neighbour is told; nil for nothing
}

func (e *ending) Error() string { return e.text }

// Reasons.
const (
	reasonLost         = "connection_lost"
	reasonHeld         = "hold_timer_expired"
	reasonHandshake    = "handshake_timeout"
	reasonSend         = "send_hold_timer_expired"
	reasonNotification = "notification_received"
	reasonHeader       = "header_error"
	reasonOpen         = "open_error"
	reasonUpdate       = "update_error"
	reasonFSM          = "unexpected_message"
	reasonCollision    = "collision"
	reasonReplaced     = "replaced_after_restart"
	reasonPrefixes     = "too_many_prefixes"
	reasonStopped      = "stopped"
)

// closing makes an ending that the neighbour is told of.
func closing(reason string, code, subcode uint8, data []byte, format string, args ...any) *ending {
	n := &bgp.Notification{Code: code, Subcode: subcode, Data: data}
	return &ending{reason, describe(bgp.Notification{Code: code, Subcode: subcode}) + ": " + fmt.Sprintf(format, args...), n}
}

// headerEnding says what is wrong with a header (RFC 4271 §6.1).
func headerEnding(header []byte, err error) *ending {
	subcode, data := uint8(headerNotSynchronized), []byte(nil)
	var e *bgp.Error
	if errors.As(err, &e) {
		switch e.Fault {
		case bgp.FaultMessageLength:
			subcode, data = headerLength, header[16:18:18]
		case bgp.FaultMessageType:
			subcode, data = headerType, header[18:19:19]
		}
	}
	return closing(reasonHeader, codeHeader, subcode, data, "%v", err)
}

// updateEnding says what is wrong with an UPDATE of which nothing can be used (RFC 4271 §6.3, RFC 7606 §3,
// RFC 4760 §7).
func updateEnding(body []byte, err error) *ending {
	subcode, data := uint8(updateAttributeList), []byte(nil)
	var e *bgp.Error
	if errors.As(err, &e) {
		switch e.Fault {
		case bgp.FaultUnknownWellKnown:
			subcode, data = updateUnknownWellKnown, attributeAt(body, e.Offset)
		case bgp.FaultMPReach, bgp.FaultMPUnreach:
			subcode, data = updateOptionalAttribute, attributeAt(body, e.Offset)
		case bgp.FaultNLRI:
			subcode = updateNetwork
		}
	}
	return closing(reasonUpdate, codeUpdate, subcode, data, "%v", err)
}

// attributeAt returns the path attribute, its header included, that the octet of an UPDATE's body at
// offset is part of.
func attributeAt(body []byte, offset int) []byte {
	from := 4 + int(binary.BigEndian.Uint16(body))
	end := from + int(binary.BigEndian.Uint16(body[from-2:]))
	for from+3 <= end {
		n, header := int(body[from+2]), 3
		if body[from]&0x10 != 0 && from+4 <= end { // extended length
			n, header = int(binary.BigEndian.Uint16(body[from+2:])), 4
		}
		next := from + header + n
		if next > end {
			break
		}
		if offset < next {
			return body[from:next:next]
		}
		from = next
	}
	return nil
}
