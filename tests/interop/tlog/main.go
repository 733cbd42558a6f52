// Tlogcheck holds an audit log of Privyseal against golang.org/x/mod/sumdb, the code behind Go's checksum database:
// the checkpoint's signature, every tile and entry, and the proofs that Privyseal made. It prints what it checked.
//
// Usage: tlogcheck LOG-FOLDER QUESTIONS.json
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

type inclusion struct {
	Index int64    `json:"index"`
	Leaf  []byte   `json:"leaf"`
	Proof [][]byte `json:"proof"`
}

type consistency struct {
	Checkpoint string   `json:"checkpoint"`
	Proof      [][]byte `json:"proof"`
}

type questions struct {
	PublicKey   string        `json:"public_key"`
	PrivateKey  string        `json:"private_key"`
	Inclusion   []inclusion   `json:"inclusion"`
	Consistency []consistency `json:"consistency"`
}

type answers struct {
	Size        int64  `json:"size"`
	Entries     int64  `json:"entries"`
	Inclusion   int    `json:"inclusion"`
	Consistency int    `json:"consistency"`
	Signed      string `json:"signed"`
}

// folder reads tiles in the layout of C2SP tlog-tiles, which leaves the height out of the path.
type folder string

func (f folder) Height() int                      { return height }
func (f folder) SaveTiles([]tlog.Tile, [][]byte)  {}
func (f folder) read(path string) ([]byte, error) { return os.ReadFile(filepath.Join(string(f), path)) }

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		data, err := f.read(strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/", height), "tile/", 1))
		if err != nil {
			return nil, err
		}
		found = append(found, data)
	}
	return found, nil
}

// entries reads a bundle: 16-bit lengths, each before its entry.
func (f folder) entries(bundle int64, width int) ([][]byte, error) {
	tile := tlog.Tile{H: height, L: 0, N: bundle, W: width}
	path := strings.Replace(tile.Path(), fmt.Sprintf("tile/%d/0/", height), "tile/entries/", 1)
	data, err := f.read(path)
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(data) > 0 {
		size := int(binary.BigEndian.Uint16(data)) + 2
		found = append(found, data[2:size])
		data = data[size:]
	}
	if len(found) != width {
		return nil, fmt.Errorf("%s has %d entries, not %d", path, len(found), width)
	}
	return found, nil
}

func open(signed string, key string) tlog.Tree {
	verifier, err := note.NewVerifier(key)
	check(err)
	opened, err := note.Open([]byte(signed), note.VerifierList(verifier))
	check(err)
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		log.Fatalf("not a checkpoint: %q", opened.Text)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	check(err)
	root, err := tlog.ParseHash(lines[2])
	check(err)
	return tlog.Tree{N: size, Hash: root}
}

func hashes(list [][]byte) []tlog.Hash {
	var found []tlog.Hash
	for _, one := range list {
		var hash tlog.Hash
		if copy(hash[:], one) != tlog.HashSize {
			log.Fatalf("a hash has %d bytes", len(one))
		}
		found = append(found, hash)
	}
	return found
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	var asked questions
	data, err := os.ReadFile(os.Args[2])
	check(err)
	check(json.Unmarshal(data, &asked))
	files := folder(os.Args[1])
	signed, err := files.read("checkpoint")
	check(err)
	tree := open(string(signed), asked.PublicKey)
	reader := tlog.TileHashReader(tree, files)
	told := answers{Size: tree.N}

	if tree.N > 0 {
		root, err := tlog.TreeHash(tree.N, reader)
		check(err)
		if root != tree.Hash {
			log.Fatal("the tiles lead to another root")
		}
	}
	for start := int64(0); start < tree.N; start += 1 << height {
		width := tree.N - start
		if width > 1<<height {
			width = 1 << height
		}
		entries, err := files.entries(start>>height, int(width))
		check(err)
		for i, entry := range entries {
			found, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, start+int64(i))})
			check(err)
			if found[0] != tlog.RecordHash(entry) {
				log.Fatalf("entry %d does not have its hash", start+int64(i))
			}
			told.Entries++
		}
	}
	for _, one := range asked.Inclusion {
		proof := tlog.RecordProof(hashes(one.Proof))
		check(tlog.CheckRecord(proof, tree.N, tree.Hash, one.Index, hashes([][]byte{one.Leaf})[0]))
		own, err := tlog.ProveRecord(tree.N, one.Index, reader)
		check(err)
		if fmt.Sprint(own) != fmt.Sprint(proof) {
			log.Fatalf("the proofs of entry %d differ", one.Index)
		}
		told.Inclusion++
	}
	for _, one := range asked.Consistency {
		old := open(one.Checkpoint, asked.PublicKey)
		proof := tlog.TreeProof(hashes(one.Proof))
		check(tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash))
		told.Consistency++
	}

	signer, err := note.NewSigner(asked.PrivateKey)
	check(err)
	text := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), tree.N, base64.StdEncoding.EncodeToString(tree.Hash[:]))
	again, err := note.Sign(&note.Note{Text: text}, signer)
	check(err)
	if !bytes.Equal(again, signed) {
		log.Fatal("signed by Go, the checkpoint is another")
	}
	told.Signed = string(again)
	check(json.NewEncoder(os.Stdout).Encode(told))
}
