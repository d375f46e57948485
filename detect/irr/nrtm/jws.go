package nrtm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
)

// ParseKey reads a public key in PEM ("PUBLIC KEY", RFC 7468 §13): Ed25519, or ECDSA on P-256, P-384
// or P-521.
func ParseKey(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New(`not a public key in PEM ("-----BEGIN PUBLIC KEY-----")`)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if algorithms(key) == nil {
		return nil, fmt.Errorf("a key of type %T; Ed25519 and ECDSA on P-256, P-384 or P-521 are known", key)
	}
	return key, nil
}

// algorithms returns the names of the JWS algorithms of a key (RFC 7518 §3.4, RFC 8037 §3.1, RFC 9864):
// the key decides, never the signed text.
func algorithms(key any) []string {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return []string{"Ed25519", "EdDSA"}
	case *ecdsa.PublicKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return []string{"ES256"}
		case 384:
			return []string{"ES384"}
		case 521:
			return []string{"ES512"}
		}
	}
	return nil
}

var errSignature = errors.New("the signature does not match the key")

// verify returns the payload of a JWS in its compact form (RFC 7515 §7.1) if key signed it.
func verify(jws []byte, key any) ([]byte, error) {
	signed, encoded, ok := cutLast(bytes.TrimSpace(jws), '.')
	head, body, two := bytes.Cut(signed, []byte("."))
	if !ok || !two || bytes.IndexByte(body, '.') >= 0 {
		return nil, errors.New("not a JSON Web Signature in the compact form")
	}
	var header struct {
		Alg  string          `json:"alg"`
		Crit json.RawMessage `json:"crit"`
	}
	raw, err := decode(head)
	if err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	if err := json.Unmarshal(raw, &header); err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	if header.Crit != nil {
		return nil, fmt.Errorf("the header says that %s must be understood, and it is not", header.Crit)
	}
	signature, err := decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("the signature: %w", err)
	}
	payload, err := decode(body)
	if err != nil {
		return nil, fmt.Errorf("the payload: %w", err)
	}
	for _, alg := range algorithms(key) {
		if header.Alg == alg {
			if !signedBy(key, signed, signature) {
				return nil, errSignature
			}
			return payload, nil
		}
	}
	return nil, fmt.Errorf("signed by %q: %w, which is for %v", header.Alg, errSignature, algorithms(key))
}

func signedBy(key any, text, signature []byte) bool {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, text, signature)
	case *ecdsa.PublicKey:
		var digest []byte
		switch k.Curve.Params().BitSize {
		case 256:
			d := sha256.Sum256(text)
			digest = d[:]
		case 384:
			d := sha512.Sum384(text)
			digest = d[:]
		default:
			d := sha512.Sum512(text)
			digest = d[:]
		}
		size := (k.Curve.Params().BitSize + 7) / 8 // R and S, each of this many bytes (RFC 7518 §3.4)
		if len(signature) != 2*size {
			return false
		}
		return ecdsa.Verify(k, digest, new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:]))
	}
	return false
}

func decode(text []byte) ([]byte, error) {
	b := make([]byte, base64.RawURLEncoding.DecodedLen(len(text)))
	n, err := base64.RawURLEncoding.Strict().Decode(b, text)
	return b[:n], err
}

func cutLast(b []byte, sep byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, sep)
	if i < 0 {
		return nil, nil, false
	}
	return b[:i], b[i+1:], true
}
