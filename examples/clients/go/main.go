// Seal a zip for Capgo V3 with a key at a Privyseal service: go run . app.zip KEY
//
// It writes app.zip_encrypted.zip and prints what `capgo bundle encrypt --json` prints. The stubs in gen/ are made from
// proto/ by `buf generate`. PRIVYSEAL_SERVER, _CA, _CERT and _CERT_KEY say where the service is, and who asks.
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "privyseal-example/gen/privyseal/v1"
)

// The whole of what is asked, its retries included.
const deadline = 20 * time.Second

// Both codes say that the same call may go well in a moment; docs/clients.md says why no other does.
const retries = `{"methodConfig": [{
	"name": [{"service": "privyseal.v1.SigningService"}, {"service": "privyseal.v1.KeyService"}],
	"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]}}]}`

type sealed struct {
	Checksum     string `json:"checksum"`
	Filename     string `json:"filename"`
	IVSessionKey string `json:"ivSessionKey"`
}

func connect() (*grpc.ClientConn, error) {
	roots, err := os.ReadFile(os.Getenv("PRIVYSEAL_CA"))
	if err != nil {
		return nil, err
	}
	certificate, err := tls.LoadX509KeyPair(os.Getenv("PRIVYSEAL_CERT"), os.Getenv("PRIVYSEAL_CERT_KEY"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(roots) {
		return nil, errors.New("PRIVYSEAL_CA holds no certificate")
	}
	secure := credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate}})
	return grpc.NewClient(os.Getenv("PRIVYSEAL_SERVER"),
		grpc.WithTransportCredentials(secure), grpc.WithDefaultServiceConfig(retries))
}

// explain adds what the service says of an error to it: the id under which it recorded the call, the reason for a
// program, and when to try again.
func explain(err error, trailer metadata.MD) error {
	told := status.Convert(err)
	text := fmt.Sprintf("%s: %s", told.Code(), told.Message())
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			text += fmt.Sprintf(" [%s]", detail.Reason)
		case *errdetails.RetryInfo:
			text += fmt.Sprintf(" (try again in %s)", detail.RetryDelay.AsDuration())
		}
	}
	if ids := trailer.Get("privyseal-request-id"); len(ids) > 0 {
		text += fmt.Sprintf(" (request %s)", ids[0])
	}
	return errors.New(text)
}

// verify does what a device does: it undoes the type-1 block, which has no DigestInfo, and compares.
func verify(publicKey *rsa.PublicKey, block, signature []byte) error {
	if rsa.VerifyPKCS1v15(publicKey, crypto.Hash(0), block, signature) != nil {
		return errors.New("the service's answer does not verify with its public key; nothing of it was used")
	}
	return nil
}

func encrypt(plain, key, iv []byte) ([]byte, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	padded := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	return padded, nil
}

// sign has the session key wrapped and the checksum signed, and checks both answers.
func sign(name string, sessionKey, checksum []byte) (wrapped, signature []byte, err error) {
	connection, err := connect()
	if err != nil {
		return nil, nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	keys, signing := pb.NewKeyServiceClient(connection), pb.NewSigningServiceClient(connection)
	var trailer metadata.MD

	found, err := keys.GetKey(ctx, &pb.GetKeyRequest{Name: name}, grpc.Trailer(&trailer))
	if err != nil {
		return nil, nil, explain(err, trailer)
	}
	block, _ := pem.Decode([]byte(found.Key.GetPublicKey().GetSpkiPem()))
	if block == nil {
		return nil, nil, errors.New("the service has not opened the key yet; try again")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	publicKey, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, nil, errors.New("the key is not an RSA key")
	}

	wrap, err := signing.WrapSessionKey(ctx, &pb.WrapSessionKeyRequest{
		Key: found.Key.Name, SessionKey: sessionKey, Scheme: pb.WrapScheme_WRAP_SCHEME_CAPGO,
	}, grpc.Trailer(&trailer))
	if err != nil {
		return nil, nil, explain(err, trailer)
	}
	signed, err := signing.SignChecksum(ctx, &pb.SignChecksumRequest{
		Key: found.Key.Name, Checksum: checksum, Scheme: pb.SignatureScheme_SIGNATURE_SCHEME_CAPGO_V3,
	}, grpc.Trailer(&trailer))
	if err != nil {
		return nil, nil, explain(err, trailer)
	}
	err = errors.Join(verify(publicKey, sessionKey, wrap.WrappedKey), verify(publicKey, checksum, signed.Signature))
	return wrap.WrappedKey, signed.Signature, err
}

func seal(path, key string) (*sealed, error) {
	zip, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	sessionKey, iv := random[:16], random[16:]
	checksum := sha256.Sum256(zip)
	wrapped, signature, err := sign(key, sessionKey, checksum[:])
	if err != nil {
		return nil, err
	}
	encrypted, err := encrypt(zip, sessionKey, iv)
	if err != nil {
		return nil, err
	}
	output := path + "_encrypted.zip"
	base64Of := base64.StdEncoding.EncodeToString
	answer := &sealed{hex.EncodeToString(signature), filepath.Base(output), base64Of(iv) + ":" + base64Of(wrapped)}
	return answer, os.WriteFile(output, encrypted, 0o644)
}

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: go run . ZIP [KEY]")
		os.Exit(2)
	}
	key := ""
	if len(os.Args) == 3 {
		key = os.Args[2]
	}
	answer, err := seal(os.Args[1], key)
	if err != nil {
		fmt.Fprintln(os.Stderr, "seal:", err)
		os.Exit(1)
	}
	text, _ := json.MarshalIndent(answer, "", "  ")
	fmt.Println(string(text))
}
