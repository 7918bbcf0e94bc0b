package node

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A log is a container's log in the format that the kubelet reads: time, stream, F for a full line, the line.
type log struct {
	mu   sync.Mutex
	file *os.File
}

func openLog(path string) (*log, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &log{file: file}, nil
}

func (l *log) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close()
}

// stream returns where a container's stdout or stderr goes.
func (l *log) stream(name string) io.Writer { return &logStream{log: l, name: name} }

type logStream struct {
	log     *log
	name    string
	partial []byte
}

func (s *logStream) Write(data []byte) (int, error) {
	s.partial = append(s.partial, data...)
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for {
		line, rest, found := bytes.Cut(s.partial, []byte("\n"))
		if !found {
			return len(data), nil
		}
		if _, err := fmt.Fprintf(s.log.file, "%s %s F %s\n", time.Now().UTC().Format(time.RFC3339Nano), s.name, line); err != nil {
			return 0, err
		}
		s.partial = rest
	}
}
