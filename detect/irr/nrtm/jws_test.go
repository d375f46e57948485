package nrtm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
)

func unbase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The examples of the RFCs.
func TestVerifyExamples(t *testing.T) {
	ec, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4},
		unbase64(t, "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), unbase64(t, "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")))
	if err != nil {
		t.Fatal(err)
	}
	ed := ed25519.PublicKey(unbase64(t, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
	for name, c := range map[string]struct {
		key       any
		jws, want string
	}{
		"RFC 7515 A.3": {ec, "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ." +
			"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
			"{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}"},
		"RFC 8037 A.4": {ed, "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc." +
			"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg", "Example of Ed25519 signing"},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := verify([]byte(c.jws+"\n"), c.key); err != nil || string(got) != c.want {
				t.Fatalf("%q, %v", got, err)
			}
			for i := range c.jws {
				b := []byte(c.jws)
				if b[i] == 'A' {
					b[i] = 'B'
				} else {
					b[i] = 'A'
				}
				if got, err := verify(b, c.key); err == nil {
					t.Fatalf("byte %d changed: %q", i, got)
				}
			}
			for other, key := range map[string]any{"EC": ec, "Ed25519": ed} {
				if (key == any(ec)) != (c.key == any(ec)) {
					if got, err := verify([]byte(c.jws), key); err == nil {
						t.Errorf("verified with the %s key: %q", other, got)
					}
				}
			}
		})
	}
}

type signer struct {
	private crypto.Signer
	alg     string
}

func (s signer) public(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (s signer) sign(t testing.TB, header, payload string) []byte {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	var sig []byte
	switch k := s.private.(type) {
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(text))
	case *ecdsa.PrivateKey:
		hash := map[string]crypto.Hash{"ES256": crypto.SHA256, "ES384": crypto.SHA384, "ES512": crypto.SHA512}[s.alg]
		h := hash.New()
		h.Write([]byte(text))
		r, v, err := ecdsa.Sign(rand.Reader, k, h.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		size := (k.Curve.Params().BitSize + 7) / 8
		sig = make([]byte, 2*size)
		r.FillBytes(sig[:size])
		v.FillBytes(sig[size:])
	}
	return []byte(text + "." + base64.RawURLEncoding.EncodeToString(sig))
}

func newSigner(t testing.TB, alg string) signer {
	t.Helper()
	var k crypto.Signer
	var err error
	if curve, ok := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]; ok {
		k, err = ecdsa.GenerateKey(curve, rand.Reader)
	} else {
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{k, alg}
}

func TestVerify(t *testing.T) {
	for _, alg := range []string{"ES256", "ES384", "ES512", "EdDSA", "Ed25519"} {
		s := newSigner(t, alg)
		key, err := ParseKey(s.public(t))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := verify(s.sign(t, `{"alg":"`+alg+`"}`, "text"), key); err != nil || string(got) != "text" {
			t.Errorf("%s: %q, %v", alg, got, err)
		}
		for _, header := range []string{`{"alg":"none"}`, `{"alg":"HS256"}`, `{}`, `{"alg":"` + alg + `","crit":["x"]}`, `[]`, ``} {
			if got, err := verify(s.sign(t, header, "text"), key); err == nil {
				t.Errorf("%s with the header %s: %q", alg, header, got)
			}
		}
		unsigned := s.sign(t, `{"alg":"`+alg+`"}`, "text")
		if got, err := verify(unsigned[:strings.LastIndexByte(string(unsigned), '.')+1], key); err == nil {
			t.Errorf("%s without a signature: %q", alg, got)
		}
		for _, text := range []string{"", ".", "..", "a.b", "a.b.c.d", "a.b.c", "é.é.é"} {
			if got, err := verify([]byte(text), key); err == nil {
				t.Errorf("%q: %q", text, got)
			}
		}
	}
}

func TestParseKey(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"nothing": "", "RSA": signer{r, ""}.public(t), "P-224": signer{p224, ""}.public(t),
		"another block": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "garbage": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if k, err := ParseKey(text); err == nil {
			t.Errorf("%s: %v", name, k)
		}
	}
}
