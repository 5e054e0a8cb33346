// Times a public verifier of TPM quotes for bench_tee.py: go-attestation on a folder of
// quote, signature, key (SPKI, DER), pcrs ("number hex" a line) and, if there, certificates cert0 (of the key),
// cert1 ... (its issuers). Prints the median microseconds of one verification, everything parsed anew.
//
//	go mod init peer && go get github.com/google/go-attestation@v0.6.4 && go build -o tpm-peer tpm_peer.go
package main

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/google/go-attestation/attest"
)

const rounds = 1000

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func verify(file func(string) []byte) {
	var registers []attest.PCR
	for lines := bufio.NewScanner(bytes.NewReader(file("pcrs"))); lines.Scan(); {
		var number int
		var digest string
		must(fmt.Sscanf(lines.Text(), "%d %s", &number, &digest))
		value := must(hex.DecodeString(digest))
		registers = append(registers, attest.PCR{Index: number, Digest: value, DigestAlg: crypto.SHA256})
	}
	public := attest.AKPublic{Public: must(x509.ParsePKIXPublicKey(file("key"))), Hash: crypto.SHA256}
	quote := attest.Quote{Quote: file("quote"), Signature: file("signature")}
	if err := public.Verify(quote, registers, file("nonce")); err != nil {
		panic(err)
	}
	child := (*x509.Certificate)(nil)
	for i := 0; file(fmt.Sprint("cert", i)) != nil; i++ {
		issuer := must(x509.ParseCertificate(file(fmt.Sprint("cert", i))))
		if child != nil {
			if err := child.CheckSignatureFrom(issuer); err != nil {
				panic(err)
			}
		}
		child = issuer
	}
}

func main() {
	files := map[string][]byte{}
	for _, entry := range must(os.ReadDir(os.Args[1])) {
		files[entry.Name()] = must(os.ReadFile(filepath.Join(os.Args[1], entry.Name())))
	}
	file := func(name string) []byte { return files[name] }
	times := make([]float64, rounds)
	for i := range times {
		begun := time.Now()
		verify(file)
		times[i] = time.Since(begun).Seconds()
	}
	sort.Float64s(times)
	fmt.Println(times[rounds/2] * 1e6)
}
