// SPDX-License-Identifier: Apache-2.0
/*
 * The driver's userspace API as kernels in the field have it, written down by us from what is public
 * of LKML v7 to v14 (GH_*), android14-6.1 (GH_*) and android15-6.6 and later (GUNYAH_*).
 * tests/uapi_layout.rs holds src/uapi.rs against it. Product code does not use this file.
 */
#ifndef GUNYAH_FACTS_H
#define GUNYAH_FACTS_H

#include <linux/ioctl.h>
#include <stdint.h>

#define GUNYAH_IOCTL_TYPE 'G'
#define GUNYAH_ANDROID_IOCTL_TYPE 'A'

struct user_mem_region {
	uint32_t label;
	uint32_t flags;
	uint64_t guest_phys_addr;
	uint64_t memory_size;
	uint64_t userspace_addr;
};

#define MEM_ALLOW_READ (1u << 0)
#define MEM_ALLOW_WRITE (1u << 1)
#define MEM_ALLOW_EXEC (1u << 2)

struct dtb_config {
	uint64_t guest_phys_addr;
	uint64_t size;
};

struct fw_config {
	uint64_t guest_phys_addr;
	uint64_t size;
};

struct reclaim_region { /* android16-6.12 */
	uint64_t guest_phys_addr;
	uint64_t size;
};

struct map_cma_mem { /* android16-6.12 */
	uint32_t label;
	uint32_t padding;
	uint64_t guest_phys_addr;
	uint32_t flags;
	uint32_t guest_mem_fd;
	uint64_t offset;
	uint64_t size;
};

#define MEM_LEND (1u << 4)

struct map_mem { /* LKML v15 */
	uint64_t guest_addr;
	uint32_t flags;
	uint32_t guest_mem_fd;
	uint64_t offset;
	uint64_t size;
};

struct auth_type { /* android16-6.12 */
	uint32_t type;
	uint32_t size;
	uint64_t arg;
};

#define AUTH_TYPE_ANDROID_PVM 0
#define AUTH_TYPE_QTVM 1
#define CAP_VCPU_TIMER_WAKEUP 0

struct qtvm_auth {
	uint16_t vm_id;
	uint16_t padding;
	uint32_t pas_id;
	uint64_t guest_phys_addr;
	uint64_t size;
};

struct fn_desc {
	uint32_t type;
	uint32_t arg_size;
	uint64_t arg;
};

#define FN_MAX_ARG_SIZE 256
#define FN_VCPU 1
#define FN_IRQFD 2
#define FN_IOEVENTFD 3

struct fn_vcpu_arg {
	uint32_t id;
};

struct fn_irqfd_arg {
	uint32_t fd;
	uint32_t label;
	uint32_t flags;
	uint32_t padding;
};

#define IRQFD_LEVEL (1u << 0)

struct fn_ioeventfd_arg {
	uint64_t datamatch;
	uint64_t addr;
	uint32_t len;
	int32_t fd;
	uint32_t flags;
	uint32_t padding;
};

#define IOEVENTFD_DATAMATCH (1u << 0)

struct boot_context {
	uint32_t reg;
	uint32_t reserved;
	uint64_t value;
};

#define REG_SET_X 0
#define REG_SET_PC 1
#define REG_SET_SP 2

struct vcpu_exit_mmio {
	uint64_t phys_addr;
	uint8_t data[8];
	uint32_t len;
	uint8_t is_write;
	uint8_t resume_action; /* padding before 6.6 */
};

struct vcpu_exit_status {
	uint32_t status;
	struct {
		uint16_t type;
		uint16_t padding;
		uint32_t reason_size;
		uint8_t reason[8];
	} exit_info;
};

struct vcpu_exit_page_fault { /* 6.6 and later */
	uint64_t phys_addr;
	int32_t attempt;
	uint8_t resume_action;
};

struct vcpu_run {
	uint8_t immediate_exit;
	uint8_t padding[7];
	uint32_t exit_reason;
	uint32_t padding1;
	union {
		struct vcpu_exit_mmio mmio;
		struct vcpu_exit_status status;
		struct vcpu_exit_page_fault page_fault;
	};
};

enum { EXIT_UNKNOWN = 0, EXIT_MMIO = 1, EXIT_STATUS = 2, EXIT_PAGE_FAULT = 3 };
enum { STATUS_LOAD_FAILED = 1, STATUS_EXITED = 2, STATUS_CRASHED = 3 };
enum { RESUME_HANDLED = 0, RESUME_FAULT = 1, RESUME_RETRY = 2 };
enum {
	EXIT_TYPE_VM_EXIT = 0,
	EXIT_TYPE_SYSTEM_OFF = 1,
	EXIT_TYPE_SYSTEM_RESET = 2,
	EXIT_TYPE_SYSTEM_RESET2 = 3,
	EXIT_TYPE_WATCHDOG_BITE = 4,
	EXIT_TYPE_HYP_ERROR = 5,
	EXIT_TYPE_ASYNC_EXT_ABORT = 6,
	EXIT_TYPE_FORCE_STOPPED = 7,
};

#define CREATE_VM _IO(GUNYAH_IOCTL_TYPE, 0x0)
#define VM_SET_USER_MEM_REGION _IOW(GUNYAH_IOCTL_TYPE, 0x1, struct user_mem_region)
#define VM_SET_DTB_CONFIG _IOW(GUNYAH_IOCTL_TYPE, 0x2, struct dtb_config)
#define VM_START _IO(GUNYAH_IOCTL_TYPE, 0x3)
#define VM_ADD_FUNCTION _IOW(GUNYAH_IOCTL_TYPE, 0x4, struct fn_desc)
#define VCPU_RUN _IO(GUNYAH_IOCTL_TYPE, 0x5)
#define VCPU_MMAP_SIZE _IO(GUNYAH_IOCTL_TYPE, 0x6)
#define VM_REMOVE_FUNCTION _IOW(GUNYAH_IOCTL_TYPE, 0x7, struct fn_desc)
#define VM_MAP_MEM _IOW(GUNYAH_IOCTL_TYPE, 0x9, struct map_mem)
#define VM_SET_BOOT_CONTEXT _IOW(GUNYAH_IOCTL_TYPE, 0xa, struct boot_context)
#define VM_ANDROID_LEND_USER_MEM _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x11, struct user_mem_region)
#define VM_ANDROID_SET_FW_CONFIG _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x12, struct fw_config)
#define VM_ANDROID_RECLAIM_REGION _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x13, struct reclaim_region)
#define ANDROID_CREATE_CMA_MEM_FD _IO(GUNYAH_ANDROID_IOCTL_TYPE, 0x14)
#define VM_ANDROID_MAP_CMA_MEM _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x15, struct map_cma_mem)
#define VM_ANDROID_SET_AUTH_TYPE _IOW(GUNYAH_ANDROID_IOCTL_TYPE, 0x16, struct auth_type)
#define CHECK_EXTENSION _IO(GUNYAH_ANDROID_IOCTL_TYPE, 0x17)

#endif
